"""Progress of a campaign on the terminal."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from study.campaign.one_run import is_lost
from study.records.run_record import RunRecord
from study.records.store import RunStore
from study.run.result import ProgressReport


class UnderWay(NamedTuple):
    """What a folder of checkpoints says of its runs: their progress, latest first, and files that are damaged."""

    running: list[ProgressReport]
    damaged: list[Path]


def runs_under_way(folder: Path, within: float | None = None) -> UnderWay:
    """The progress of runs in a folder of checkpoints; of the last ``within`` seconds if given."""
    found, damaged = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            changed = path.stat().st_mtime
            if within is None or time.time() - changed <= within:
                found.append((changed, ProgressReport.model_validate_json(path.read_bytes(), strict=True)))
        except OSError:
            continue  # it has just ended
        except ValidationError:
            damaged.append(path)
    return UnderWay([report for _, report in sorted(found, key=lambda item: -item[0])], damaged)


def under_way_table(running: Sequence[ProgressReport]) -> Table:
    """Experiences done and average accuracy so far of each run."""
    table = Table("run", "experience", "accuracy", box=None, show_header=False, padding=(0, 1, 0, 0))
    for report in running:
        accuracy = "–" if report.accuracy is None else f"{100 * report.accuracy:.1f}% so far"
        table.add_row(*map(Text, (report.run, f"experience {report.experiences} of {report.of}", accuracy)))
    return table


class StudyProgress:
    """Shows runs done, running and failed, the time left, and the accuracy of running ones.

    Args:
        console: to print to.
        total: number of runs.
        jobs: how many run at a time.
        store: of the records and checkpoints.
    """

    def __init__(self, console: Console, total: int, jobs: int, store: RunStore) -> None:
        self.console, self.total, self.jobs, self.store = console, total, jobs, store
        self.done = self.not_finished = 0
        self.began = time.time()
        self._bar = Progress(
            TextColumn("{task.completed} of {task.total} runs done, {task.fields[running]} running"),
            TextColumn("{task.fields[failed]} failed"),
            BarColumn(bar_width=10),  # thousands of runs fit into 80 characters
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("", total=total, running=jobs, failed=0)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the progress: live in a terminal, otherwise a line for each run."""
        if self.total:
            self.console.print(
                f"runs to do: {self.total}, {self.jobs} at a time; workers start, which takes some seconds"
            )
        if self.console.is_terminal and self.total:
            with Live(get_renderable=self._picture, console=self.console, refresh_per_second=2):
                yield
        else:
            yield

    def say(self, text: str) -> None:
        self.console.print(text, style="red", markup=False)

    def advance(self, record: RunRecord) -> None:
        self.done += 1
        if not record.finished:
            self.not_finished += 1
            kept = "" if is_lost(record) else f"; its record: {self.store.path(record.run)}"
            self.say(f"{record.outcome}: {record.run}: {record.last_line}{record.place}{kept}")
        running = min(self.jobs, self.total - self.done)
        self._bar.update(self._task, advance=1, running=running, failed=self.not_finished)
        if not self.console.is_terminal:
            self.console.print(f"{self.done} of {self.total} runs done: {record.run}", markup=False)

    def _picture(self) -> Group:
        running = runs_under_way(self.store.under_way, within=time.time() - self.began).running
        return Group(self._bar, *([under_way_table(running[: self.jobs])] if running else []))
