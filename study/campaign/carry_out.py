"""A campaign: keep finished runs, perform the others, and show progress."""

from collections.abc import Sequence
from contextlib import closing

from rich.console import Console

from study.campaign.execution import execute
from study.campaign.one_run import LOST
from study.campaign.progress import StudyProgress
from study.records.run_record import RunRecord
from study.records.store import RunStore
from study.run.run_environment import RunEnvironment
from study.run.specification import Run


class Interrupted(Exception):
    """The campaign was interrupted; ``finished`` runs are done and kept."""

    def __init__(self, finished: int) -> None:
        super().__init__(f"interrupted with {finished} runs finished")
        self.finished = finished


def carry_out(
    runs: Sequence[Run],
    store: RunStore,
    environment: RunEnvironment,
    *,
    jobs: int,
    force: bool,
    known: Sequence[RunRecord] = (),
    cluster: str | None,
    terminal: Console,
) -> list[RunRecord]:
    """Perform the runs that have not ended, and return the records of all in their order.

    A run that diverged has ended: it would diverge again. A run that failed is tried again.

    Args:
        runs: the runs.
        store: of the records, locked meanwhile.
        environment: of the runs.
        jobs: how many run at a time.
        force: perform all runs from the start, and put existing records aside.
        known: records from elsewhere; runs that ended there are copied, under their names here.
        cluster: see :func:`execute`.
        terminal: shows the progress.

    Raises:
        Interrupted: on Ctrl-C.
        RecordError: a record is damaged, or another study writes to the store.
        OSError: the store cannot be written to.
        ClusterError: the cluster cannot be used.
    """
    with store.locked():
        if force:
            store.put_aside(runs)  # at once, so that after an interrupt the rest is done without --force
        records: dict[str, RunRecord] = {}
        elsewhere = {record.id: record for record in known if record.outcome != "failed"}
        for run in runs:
            record = store.read(run)
            if (record is None or record.outcome == "failed") and run.id in elsewhere:
                record = elsewhere[run.id].model_copy(update={"run": run})
                store.write(record)
            if record is not None and record.outcome != "failed":
                records[run.id] = record
        ended_before = sum(run.id in records for run in runs)
        if ended_before:
            terminal.print(f"{ended_before} of {len(runs)} runs have ended already, in {store.folder}")
        # methods of equal settings are one run under two names
        missing = list({run.id: run for run in runs if run.id not in records}.values())
        jobs = max(1, min(jobs, len(missing)))
        progress = StudyProgress(terminal, len(missing), jobs, store.under_way)
        try:
            with progress.shown(), closing(execute(missing, store, environment, jobs, cluster)) as ended:
                for record in ended:
                    records[record.id] = record
                    progress.advance(record)
        except KeyboardInterrupt:
            for run in missing:  # one may have ended while the others were being stopped
                record = None if run.id in records else store.read(run)
                if record is not None:
                    records[run.id] = record
            raise Interrupted(sum(run.id in records and records[run.id].finished for run in runs)) from None
        under_own_names = [records[run.id].model_copy(update={"run": run}) for run in runs]
        for record in under_own_names:
            if record.run.label != records[record.id].run.label and record.error != LOST:
                store.write(record)
    return under_own_names
