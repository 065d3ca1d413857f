"""Kills at random moments; the same command goes on until the study ends."""

import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil

from study.campaign.one_run import TRIES
from study.errors import INTERRUPTED, SOME_RUNS_FAILED
from tests.study.clusters import cluster, ray_workers
from tests.study.processes import Command, wait_until
from tests.torture.record import Tried
from tests.torture.small_study import LeftAlone, SmallStudy, in_progress, leave_alone, until_none

STUDY = SmallStudy()
MODES = ("offline", "disabled")
"""Of W&B."""


@dataclass(frozen=True)
class Executor:
    """What performs runs, its options of ``run``, what of it is killed, and the worker processes of a command."""

    name: str
    options: tuple[object, ...]
    ways: tuple[str, ...]
    workers: Callable[[Command], Sequence[psutil.Process]]


LOCAL = Executor(
    "local pool",
    ("--jobs", 2),
    ("driver killed", "worker killed", "all processes killed", "Ctrl-C twice"),
    lambda command: command.workers,
)


def kills(cycles: int, seed: int, folder: Path, study: SmallStudy = STUDY) -> Iterator[Tried]:
    """``cycles`` kills: a quarter each with the local pool or Ray, and with W&B or without."""
    with ExitStack() as stack:
        found = stack.enter_context(cluster(2))
        options = ("--jobs", 2, "--ray", found.address)
        ray = Executor("Ray", options, ("driver killed", "worker killed", "Ctrl-C twice"), lambda _: ray_workers(found))
        alone = leave_alone(study, folder / "left-alone")
        for number, executor in enumerate((LOCAL, ray)):
            series = Kills(alone, executor, Random(f"{seed} {executor.name}"))
            for index, mode in enumerate(MODES, len(MODES) * number):
                series.use_up((cycles + index) // 4, mode, folder / f"{executor.name} {mode}")
            yield from series.tried()


@dataclass
class Kills:
    """Kills with one executor.

    Attributes:
        when: of each way, how many came before a run had begun, and during one.
        wrong: of each way, what was wrong at once.
        studies: how many were carried out to the end.
        lost: what was lost or is wrong at their ends.
    """

    alone: LeftAlone
    executor: Executor
    draw: Random
    when: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    wrong: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    studies: int = 0
    lost: list[str] = field(default_factory=list)

    def tried(self) -> Iterator[Tried]:
        name = self.executor.name
        for way in self.executor.ways:
            when, wrong = self.when[way], tuple(dict.fromkeys(self.wrong[way]))
            yield Tried(what=f"{way}, {name}", tries=when.total(), hit=when["during"], wrong=wrong)
        yield Tried(what=f"studies compared at their end, {name}", tries=self.studies, wrong=tuple(self.lost))

    def use_up(self, budget: int, mode: str, folder: Path) -> None:
        """Carry studies out in folders beside ``folder`` until so many kills are done."""
        while budget > 0:
            out = folder.with_name(f"{folder.name} {self.studies}")
            self.studies += 1
            try:
                budget = self.carry_out(out, mode, budget)
            except (TimeoutError, AssertionError, psutil.Error) as error:
                self.lost.append(f"{out.name} could not be carried out: {error}")
                return

    def carry_out(self, out: Path, mode: str, budget: int) -> int:
        """Carry a study out with at most ``budget`` kills, and compare it; how many kills are left."""
        while True:
            with Command(*self.alone.study.command(out, "--wandb", mode, *self.executor.options)) as command:
                workers, killed = self.kill(command, out, budget)
                budget -= workers + killed
                if killed:
                    continue
                code, table, said = command.code(), command.output, command.said
            if code == SOME_RUNS_FAILED and " lost)" in said and workers >= TRIES:
                continue
            if code:
                self.lost.append(f"{out.name} ended with {code}: {said[-500:]}")
            else:
                if self.executor is not LOCAL:
                    time.sleep(2)  # the cluster's services of W&B outlive the command, and write on for a moment
                differences = list(self.alone.differences(out, tracked=mode == "offline"))
                differences += ["`run` printed another table"] * (table != self.alone.table)
                self.lost += [f"{out.name}: {each}; it said: {said[-300:]}" for each in differences]
            return budget

    def kill(self, command: Command, out: Path, most: int) -> tuple[int, bool]:
        """Kill workers until the command ends or is killed itself; how many workers, and whether it was."""
        workers = 0
        while workers < most:
            way = self.draw.choice(self.executor.ways)
            self.alone.moment(command, out, self.draw)
            worker = self._worker(command) if way == "worker killed" else None
            during = in_progress(command, out)
            if command.ended:
                break
            if worker is not None:
                try:
                    worker.kill()
                except psutil.NoSuchProcess:
                    continue
                workers += 1
            self.when[way]["during" if during else "before"] += 1
            print(f"{out.name}: {way}; {dict(self.when[way])}", file=sys.stderr, flush=True)
            if worker is None:
                self._end(command, way, during)
                return workers, True
        return workers, False

    def _worker(self, command: Command) -> psutil.Process | None:
        """One of them, as soon as there is one; None if the command ends before."""
        found: list[psutil.Process] = []
        wait_until(lambda: found.extend(self.executor.workers(command)) or found or command.ended, "no worker starts")
        return self.draw.choice(found) if found else None

    def _end(self, command: Command, way: str, during: bool) -> None:
        if way == "driver killed":
            command.process.kill()
        elif way == "all processes killed":
            command.send_to_all(signal.SIGKILL)
        else:
            for _ in range(2):
                command.interrupt()
                time.sleep(0.3)  # as fast as a person
        code = command.code()
        if way == "Ctrl-C twice" and during and (code != INTERRUPTED or "Traceback" in command.said):
            self.wrong[way].append(f"it ended with {code}: {command.said[-500:]}")
        self.wrong[way] += until_none(command.processes)
        if self.executor is not LOCAL:  # whose workers are the cluster's
            self.wrong[way] += until_none(lambda: self.executor.workers(command))
