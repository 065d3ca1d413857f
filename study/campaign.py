"""Many runs: those that are finished are kept, the others performed, and people see how far it is."""

from collections.abc import Sequence
from contextlib import closing

from rich.console import Console

from study.conditions import Conditions
from study.execution import execute
from study.progress import StudyProgress
from study.records import Run, RunRecord
from study.store import RunStore


class Interrupted(Exception):
    """Ctrl-C: what was finished is kept.

    Attributes:
        finished: how many of the runs are.
    """

    def __init__(self, finished: int) -> None:
        super().__init__(f"interrupted with {finished} runs finished")
        self.finished = finished


def carry_out(
    runs: Sequence[Run],
    store: RunStore,
    conditions: Conditions,
    *,
    jobs: int,
    force: bool,
    cluster: str | None,
    terminal: Console,
) -> list[RunRecord]:
    """The records of all runs, in their order, with those that have not ended performed first.

    A run that diverged has ended: it would diverge again. One that failed is tried again.

    Args:
        runs: what to do.
        store: of the records; no other study may write to it meanwhile.
        conditions: of the runs.
        jobs: how many at a time.
        force: perform all of them, from the start.
        cluster: see :func:`execute`.
        terminal: to show the progress on.

    Raises:
        Interrupted: by Ctrl-C.
        RecordError: a record is damaged, or another study writes to the store.
        OSError: the store cannot be written to.
        ClusterError: the cluster cannot be used.
    """
    with store.locked():
        records: dict[str, RunRecord] = {}
        for run in runs:
            record = None if force else store.read(run)
            if record is not None and record.outcome != "failed":
                records[run.id] = record
            elif force:
                for path in store.under_way.glob(f"{run.id}.*"):
                    path.unlink(missing_ok=True)
        missing = [run for run in runs if run.id not in records]
        if records:
            terminal.print(f"{len(records)} of {len(runs)} runs are finished already, in {store.folder}")
        jobs = max(1, min(jobs, len(missing)))
        progress = StudyProgress(terminal, len(missing), jobs, store.under_way)
        try:
            with progress.shown(), closing(execute(missing, store, conditions, jobs, cluster)) as ended:
                for record in ended:
                    records[record.id] = record
                    progress.advance(record)
        except KeyboardInterrupt:
            raise Interrupted(sum(record.finished for record in records.values())) from None
    return [records[run.id] for run in runs]
