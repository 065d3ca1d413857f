"""A small study, the records that it gives when it is left alone, and how others differ from them."""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pandas as pd
from typer.testing import CliRunner

from study.cli.app import app
from study.records.run_record import RunRecord
from study.records.store import RunStore
from tests.study.conftest import ALL_METHODS
from tests.study.processes import Command, wait_until
from tests.study.run.tracking.offline import Part

NOT_RESULTS = frozenset({"seconds", "peak_memory", "resumed", "ended", "commit", "checksum"})
"""Fields of a record that another try of the same run may give another value."""

EARLY = 0.25
"""The share of random moments that may come before any run has begun."""


@dataclass(frozen=True)
class SmallStudy:
    """The arguments of ``run`` for a few short runs with five experiences each."""

    methods: Sequence[str] = ("ewc", "si", "replay-matched", "joint")
    scenarios: Sequence[str] = ("task", "class")
    seeds: int = 2
    epochs: int = 10

    def command(self, out: Path, *more: object) -> list[object]:
        only = ["--methods", ",".join(self.methods), "--scenario", ",".join(self.scenarios), "--seeds", self.seeds]
        settings = ["--set", "benchmark.experiences=5", "--set", f"training.epochs={self.epochs}"]
        return ["run", ALL_METHODS, *only, *settings, "--out", out, *more]

    @property
    def runs(self) -> int:
        return len(self.methods) * len(self.scenarios) * self.seeds


@dataclass(frozen=True)
class LeftAlone:
    """What a study gives that is left alone.

    Attributes:
        numbers: of each record, by file name: all that a repetition must give again, as JSON.
        table: what ``run`` prints.
        report: the numbers of ``report``.
        start: seconds until the first run begins.
        run: seconds of a run.
    """

    study: SmallStudy
    folder: Path
    numbers: dict[str, str]
    table: str
    report: str
    start: float
    run: float

    def moment(self, command: Command, out: Path, draw: Random) -> None:
        """Wait until a random moment: in :data:`EARLY` of the cases from the start, else once a run has begun."""
        if draw.random() < EARLY:
            _wait(draw.uniform(0, self.start), command)
            return
        wait_until(lambda: command.ended or in_progress(command, out), "no run began", every=0.02)
        _wait(draw.uniform(0, 2 * self.run), command)

    def differences(self, out: Path, tracked: bool = False) -> Iterator[str]:
        """How a study that has ended differs from this one, and what it left behind."""
        try:
            records = {record.file_name: record for record in RunStore(out).read_all(or_none=True)}
        except ValueError as error:
            yield f"a record is damaged: {error}"
            return
        for name, numbers in self.numbers.items():
            if name not in records:
                yield f"{name} is missing"
            elif numbers_of(records[name]) != numbers:
                yield f"{name} has other numbers"
        yield from (f"{name} was never asked for" for name in records.keys() - self.numbers.keys())
        left = [path for path in (*out.glob("*.tmp"), *(out / "under-way").glob("*.*")) if path.is_file()]
        yield from (f"{path.name} is left" for path in left)
        if tracked:
            yield from differences_in_tracking(out, list(records.values()))
        if report_of(out) != self.report:
            yield "the report has other numbers"


def leave_alone(study: SmallStudy, folder: Path) -> LeftAlone:
    """Carry a study out in one process, without W&B."""
    with Command(*study.command(folder, "--jobs", 1, "--wandb", "disabled")) as command:
        wait_until(lambda: command.ended or in_progress(command, folder), "no run began", every=0.02)
        start = time.time() - command.began
        code = command.code()
        assert code == 0, command.said
        numbers = {record.file_name: numbers_of(record) for record in RunStore(folder).read_all()}
        of_one = (time.time() - command.began - start) / study.runs
        report = report_of(folder)
        assert "average_accuracy" in report, report
        return LeftAlone(study, folder, numbers, command.output, report, start, of_one)


def numbers_of(record: RunRecord) -> str:
    return record.model_dump_json(exclude=set(NOT_RESULTS))


def report_of(folder: Path) -> str:
    """The numbers in the tables of ``report``, without times; its message if there is no report."""
    with TemporaryDirectory() as name:
        result = CliRunner().invoke(app, ["report", str(ALL_METHODS), "--records", str(folder), "--out", name])
        if result.exit_code:
            return result.output
        results = pd.read_csv(Path(name, "results.csv"))
        again = {column for column in results if column.startswith(("seconds_", "peak_memory"))}
        text = io.StringIO()
        results.drop(columns=list(again | NOT_RESULTS & set(results))).to_csv(text)
        return text.getvalue() + Path(name, "accuracy.csv").read_text(encoding="utf-8")


def in_progress(command: Command, out: Path) -> bool:
    """Whether a run has begun or gone on in this call, and not ended."""
    for path in (out / "under-way").glob("*.json"):
        with suppress(FileNotFoundError):  # it has just ended
            if path.stat().st_mtime >= command.began:
                return True
    return False


def differences_in_tracking(out: Path, records: Sequence[RunRecord]) -> Iterator[str]:
    """Runs of which W&B's files have no finished one, or one with other rows."""
    parts: dict[str, list[Part]] = {}
    for folder in sorted((out / "wandb").glob("offline-run-*")):
        with suppress(ValueError):  # killed before its first entry was written
            part = Part(folder)
            parts.setdefault(part.run.run_id, []).append(part)
    for record in records:
        finished = [of for name, of in parts.items() if name.startswith(record.id) and of[-1].exit_codes == [0]]
        if not finished:
            yield f"W&B has no finished run of {record.run}"
        for of in finished:
            rows = {row["experience"]: row for part in of for row in part.rows if "accuracy/experience_0" in row}
            accuracy = [
                [rows[k][f"accuracy/experience_{i}"] for i in range(len(record.accuracy[0]))] for k in sorted(rows)
            ]
            if accuracy != record.accuracy:
                yield f"W&B has {len(accuracy)} rows of {record.run}, or other ones than its record"


def until_none(processes: Callable[[], Sequence[object]]) -> list[str]:
    """Wait for processes to end; those that do not, a sentence each."""
    deadline = time.monotonic() + 60
    while found := processes():
        if time.monotonic() > deadline:
            return [f"a process is left: {process}" for process in found]
        time.sleep(0.5)
    return []


def _wait(seconds: float, command: Command) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not command.ended:
        time.sleep(0.01)
