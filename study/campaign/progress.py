"""Progress of a campaign on the terminal."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from study.protocol.schema import Protocol
from study.records.run_record import RunRecord
from study.run.specification import Run


def runs_under_way(folder: Path, within: float | None = None) -> list[dict]:
    """Progress reports of runs in a folder of checkpoints, latest first; of the last ``within`` seconds if given."""
    found = []
    for path in folder.glob("*.json") if folder.is_dir() else ():
        try:
            changed = path.stat().st_mtime
            if within is None or time.time() - changed <= within:
                found.append((changed, json.loads(path.read_bytes())))
        except (OSError, ValueError):
            continue  # it has just ended
    return [said for _, said in sorted(found, key=lambda item: -item[0])]


class StudyProgress:
    """Shows runs done, running and failed, the time left, and the accuracy of running ones.

    Args:
        console: to print to.
        total: number of runs.
        jobs: how many run at a time.
        under_way: folder of the checkpoints.
    """

    def __init__(self, console: Console, total: int, jobs: int, under_way: Path) -> None:
        self.console = console
        self.jobs = jobs
        self.under_way = under_way
        self.not_finished = 0
        self.began = time.time()
        self._bar = Progress(
            TextColumn("{task.completed} of {task.total} runs done, {task.fields[running]} running"),
            TextColumn("{task.fields[failed]} failed"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("", total=total, running=min(jobs, total), failed=0)

    @contextmanager
    def shown(self) -> Iterator["StudyProgress"]:
        """Show the progress: live in a terminal, otherwise a line for each run."""
        if self.console.is_terminal and self._bar.tasks[0].total:
            with Live(get_renderable=self._picture, console=self.console, refresh_per_second=2):
                yield self
        else:
            yield self

    def advance(self, record: RunRecord) -> None:
        if not record.finished:
            self.not_finished += 1
            self.console.print(f"{record.outcome}: {record.run}: {record.last_line}", style="red", markup=False)
        done, total = int(self._bar.tasks[0].completed) + 1, int(self._bar.tasks[0].total)
        self._bar.update(self._task, advance=1, running=min(self.jobs, total - done), failed=self.not_finished)
        if not self.console.is_terminal:
            self.console.print(f"{done} of {total} runs done: {record.run}", markup=False, soft_wrap=True)

    def _picture(self) -> Group:
        running = runs_under_way(self.under_way, within=time.time() - self.began)
        return Group(self._bar, *([under_way_table(running[: self.jobs])] if running else []))


def under_way_table(running: list[dict]) -> Table:
    """Experiences done and average accuracy so far of each run."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for said in running:
        accuracy = "–" if said["accuracy"] is None else f"{100 * said['accuracy']:.1f}% so far"
        table.add_row(escape(said["run"]), f"experience {said['experiences']} of {said['of']}", accuracy)
    return table


def status_table(protocol: Protocol, records: Sequence[RunRecord]) -> Table:
    """How many seeds of each method in each scenario have finished, diverged or failed."""
    table = Table(title=escape(f"{protocol.title}: runs by outcome, of {protocol.seeds} seeds"), title_justify="left")
    table.add_column("scenario")
    table.add_column("method")
    for outcome in ("finished", "diverged", "failed"):
        table.add_column(outcome, justify="right")
    own = [record for record in records if _belongs(record.run, protocol)]
    counts = Counter((record.run.scenario, record.run.label, record.outcome) for record in own)
    for scenario in protocol.scenarios:
        for method in protocol.methods:
            found = [counts[scenario, method, outcome] for outcome in ("finished", "diverged", "failed")]
            table.add_row(scenario, method, *(str(n) if n else "–" for n in found))
    if len(own) < len(records):
        table.caption = f"{len(records) - len(own)} records of other settings are not counted"
    return table


def _belongs(run: Run, protocol: Protocol) -> bool:
    """Whether a run belongs to a protocol, whatever λ and options a search chose."""
    if run.scenario not in protocol.scenarios or run.label not in protocol.methods or run.evaluated_on != "test":
        return False
    strength = protocol.strength_of(run.label, run.scenario)
    if strength != "tuned" and (run.method, run.strength) != (protocol.methods[run.label], strength):
        return False
    return (run.benchmark, run.model, run.training) == (protocol.benchmark, protocol.model, protocol.training)
