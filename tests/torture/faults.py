"""Single faults: each is done to the small study, what is said of it is read, and the same command goes on."""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import psutil

from study.campaign.one_run import DIED, SILENT
from study.errors import CANNOT_GO_ON, INTERRUPTED, SOME_RUNS_FAILED
from study.records.store import ARCHIVE, RunStore, write_archive
from tests.study.clusters import cluster
from tests.study.conftest import ALL_METHODS
from tests.study.processes import Command, wait_until
from tests.torture.record import Tried
from tests.torture.small_study import LeftAlone, SmallStudy, in_progress, leave_alone, until_none

Fault = Callable[["Trial"], None]


class Trial:
    """One try of a fault in a folder of its own; AssertionError says what is wrong.

    Attributes:
        out: the folder of the study's records.
        draw: decides which file or byte.
    """

    def __init__(self, alone: LeftAlone, out: Path, draw: Random) -> None:
        self.alone, self.out, self.draw = alone, out, draw

    @property
    def longest(self) -> float:
        """Minutes within which an experience ends, with all that a process does before its first."""
        return max(0.1, 3 * (self.alone.start + self.alone.run) / 60)

    def start(self, *more: object, jobs: int = 1, mode: str = "disabled", largest_file: int | None = None) -> Command:
        command = self.alone.study.command(self.out, "--jobs", jobs, "--wandb", mode, *more)
        return Command(*command, largest_file=largest_file)

    def goes_on(self, *more: object, code: int = 0, says: str = "", **options: Any) -> None:
        """The same command ends with ``code``, and says so; after a success the study equals the one left alone."""
        with self.start(*more, **options) as command:
            self.ended(command, code, says)

    def ended(self, command: Command, code: int = 0, says: str = "") -> None:
        assert command.code() == code, f"it ended with {command.code()} instead of {code}: {command.said[-500:]}"
        assert says in command.said, f"{says!r} was not said: {command.said[-500:]}"
        assert "Traceback" not in command.said, command.said[-500:]
        assert code != CANNOT_GO_ON or command.said.count("error: ") == 1, command.said[-500:]
        left = until_none(command.processes)
        assert not left, "; ".join(left)
        if code == 0:
            wrong = list(self.alone.differences(self.out))
            assert not wrong, "; ".join(wrong)

    def begun(self, command: Command, checkpoints: bool = False) -> None:
        """Wait until a run is in progress, or has a checkpoint."""
        there = (lambda: list(self.under_way("*.pt"))) if checkpoints else lambda: in_progress(command, self.out)
        wait_until(lambda: there() or command.ended, "no run began", every=0.02)
        assert not command.ended, f"it ended too early: {command.said[-500:]}"

    def killed(self, **options: Any) -> None:
        """Start, and kill all processes once a run has a checkpoint."""
        with self.start(**options) as command:
            self.begun(command, checkpoints=True)
            command.send_to_all(signal.SIGKILL)
            command.code()
            until_none(command.processes)

    def under_way(self, pattern: str) -> list[Path]:
        return sorted((self.out / "under-way").glob(pattern))

    def damage(self, path: Path) -> None:
        """A bit of a file that is another."""
        content = bytearray(path.read_bytes())
        content[self.draw.randrange(len(content))] ^= 1 << self.draw.randrange(8)
        path.write_bytes(content)


# -------------------------------------------------------------------- processes


def a_worker_hangs(trial: Trial) -> None:
    with trial.start("--max-silence", trial.longest, jobs=2) as command:
        trial.begun(command)
        trial.draw.choice(command.workers).suspend()
        trial.ended(command, says=f"{SILENT}; it is restarted")


def ctrl_c_while_a_worker_hangs(trial: Trial, times: int = 1) -> None:
    with trial.start(jobs=2) as command:
        trial.begun(command)
        trial.draw.choice(command.workers).suspend()
        for _ in range(times):
            command.interrupt()
            time.sleep(0.3)  # as fast as a person
        trial.ended(command, INTERRUPTED, "the same command goes on from there" if times == 1 else "")
    trial.goes_on(jobs=2)


def ctrl_c_twice_while_a_worker_hangs(trial: Trial) -> None:
    ctrl_c_while_a_worker_hangs(trial, times=2)


def a_worker_is_killed(trial: Trial) -> None:
    with trial.start(jobs=2) as command:
        trial.begun(command)
        command.workers[0].kill()
        trial.ended(command, says=f"{DIED}; it is restarted")


def a_worker_is_killed_twice(trial: Trial) -> None:
    """With one worker, so that both kills take the same run."""
    with trial.start("--max-silence", 10 * trial.longest) as command:
        for _ in range(2):
            trial.begun(command)
            (worker,) = command.workers
            worker.kill()
            worker.wait()
            for path in trial.under_way("*.json"):
                path.unlink()  # so that the next one is of the next try
        trial.ended(command, SOME_RUNS_FAILED, "(1 lost)")
    trial.goes_on()


def the_driver_is_killed(trial: Trial) -> None:
    with trial.start(jobs=2) as command:
        trial.begun(command)
        command.process.kill()
        command.code()
        left = until_none(command.processes)
        assert not left, "; ".join(left)
    trial.goes_on(jobs=2)


def a_node_of_a_cluster_is_killed(trial: Trial) -> None:
    with cluster(0, 1, 1) as found, trial.start("--ray", found.address, jobs=2) as command:
        trial.begun(command, checkpoints=True)
        found.remove_node(sorted(found.worker_nodes, key=str)[0], allow_graceful=False)
        trial.ended(command, says="is lost")


# ------------------------------------------------------------------------ files


def a_checkpoint_is_damaged(trial: Trial) -> None:
    trial.killed()
    trial.damage(trial.draw.choice(trial.under_way("*.pt")))
    with trial.start() as command:
        trial.ended(command)
        # a bit of the first line may be of the code's hash
        said = ("cannot be used and is now in", "was written by other code")
        assert any(each in command.said for each in said), command.said


def a_record_is_spoilt(trial: Trial, spoil: Callable[[Path], object]) -> None:
    """A record that is refused until it is deleted."""
    trial.goes_on()
    path = trial.draw.choice(sorted(trial.out.glob("*.json")))
    spoil(path)
    trial.goes_on(code=CANNOT_GO_ON, says=f"{path} is no record of this run")
    path.unlink()
    trial.goes_on()


def a_record_is_damaged(trial: Trial) -> None:
    a_record_is_spoilt(trial, trial.damage)


def a_record_is_edited(trial: Trial) -> None:
    def edit(path: Path) -> None:
        path.write_text(path.read_text(encoding="utf-8").replace("0.", "0.9", 1), encoding="utf-8")

    a_record_is_spoilt(trial, edit)


def a_record_is_a_copy_of_another(trial: Trial) -> None:
    def replace(path: Path) -> None:
        other = trial.draw.choice([each for each in sorted(trial.out.glob("*.json")) if each != path])
        path.write_bytes(other.read_bytes())

    a_record_is_spoilt(trial, replace)


def a_progress_file_is_damaged(trial: Trial) -> None:
    trial.killed()
    path = trial.draw.choice(trial.under_way("*.json"))
    path.write_bytes(path.read_bytes()[: trial.draw.randrange(path.stat().st_size)])
    with Command("status", ALL_METHODS, "--records", trial.out) as command:
        assert command.code() == 0, command.said
        assert path.name in command.output.partition("damaged progress files, ignored")[2], command.output
    trial.goes_on()


def an_archive_is_damaged(trial: Trial) -> None:
    archive = trial.out.parent / f"{trial.out.name}-archive" / ARCHIVE
    archive.parent.mkdir()
    write_archive(RunStore(trial.alone.folder).read_all(), archive)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: trial.draw.randrange(len(whole))])
    trial.goes_on("--reuse", archive.parent, code=CANNOT_GO_ON, says=str(archive))
    archive.write_bytes(whole)
    trial.goes_on("--reuse", archive.parent)


def files_of_wandb_are_damaged(trial: Trial) -> None:
    trial.killed(mode="offline")
    files = [path for path in sorted((trial.out / "wandb").rglob("*")) if path.is_file()]
    assert files, "W&B has written no file"
    for path in files:
        content = path.read_bytes()
        path.write_bytes(trial.draw.choice([b"", b"nothing", content[: len(content) // 2]]))
    trial.goes_on(mode="offline")


def no_file_can_grow(trial: Trial) -> None:
    """As a quota or a full disk: it ends at the first checkpoint that does not fit."""
    with trial.start(largest_file=2**14) as command:
        trial.ended(command, CANNOT_GO_ON, "File too large")
    trial.goes_on()


FAULTS: dict[str, Fault] = {
    "a worker hangs (SIGSTOP), with --max-silence": a_worker_hangs,
    "Ctrl-C while a worker hangs": ctrl_c_while_a_worker_hangs,
    "Ctrl-C twice while a worker hangs": ctrl_c_twice_while_a_worker_hangs,
    "a worker is killed": a_worker_is_killed,
    "a worker is killed, and the one that takes its place": a_worker_is_killed_twice,
    "the driver is killed": the_driver_is_killed,
    "one of two nodes of a Ray cluster is killed": a_node_of_a_cluster_is_killed,
    "a checkpoint is damaged between kill and resume": a_checkpoint_is_damaged,
    "a record is damaged between two calls": a_record_is_damaged,
    "a record is edited by hand between two calls": a_record_is_edited,
    "a record is replaced by a copy of another": a_record_is_a_copy_of_another,
    "a progress file is cut off between kill and resume": a_progress_file_is_damaged,
    "an archive is cut off between two calls": an_archive_is_damaged,
    "all files of W&B are damaged between kill and resume": files_of_wandb_are_damaged,
    "no file can grow beyond 16 KiB (a quota, a full disk)": no_file_can_grow,
}

SHORT = SmallStudy(methods=("ewc", "si"), scenarios=("task",), seeds=1, epochs=10)


def faults(cycles: int, seed: int, folder: Path, only: Sequence[str] = (*FAULTS,)) -> Iterator[Tried]:
    """Each fault ``cycles`` / 50 times, at least once."""
    alone = leave_alone(SHORT, folder / "left-alone")
    for number, what in enumerate(only):
        wrong, tries = [], max(1, cycles // 50)
        for index in range(tries):
            trial = Trial(alone, folder / f"{number}-{index}", Random(f"{seed} {what} {index}"))
            try:
                FAULTS[what](trial)
            except (AssertionError, TimeoutError, OSError, ValueError, IndexError, psutil.Error) as error:
                wrong.append(f"{type(error).__name__}: {error}")
            print(f"{what}: {wrong[-1] if wrong else 'nothing lost'}", file=sys.stderr, flush=True)
        yield Tried(what=what, tries=tries, wrong=tuple(wrong))
