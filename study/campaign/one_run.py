"""One run of a campaign: performed, recorded, and its checkpoint dropped."""

from study.records.run_record import RunRecord, record_of
from study.records.store import RunStore
from study.run.run_environment import RunEnvironment
from study.run.specification import Run

LOST = "the process of this run died (killed, or out of memory?)"


def perform_and_record(run: Run, environment: RunEnvironment) -> RunRecord:
    """The record of a run that is performed in this process.

    Raises:
        OSError: a checkpoint cannot be written.
    """
    from study.run.trainer import perform  # imports torch and Avalanche, which a parent that waits does not need

    return record_of(run, perform(run, environment))


def perform_and_store(run: Run, store: RunStore, environment: RunEnvironment) -> RunRecord:
    """As :func:`perform_and_record`, and store the record."""
    record = perform_and_record(run, environment)
    keep(record, store, environment)
    return record


def keep(record: RunRecord, store: RunStore, environment: RunEnvironment) -> None:
    """Write a record, then delete the run's progress and checkpoint.

    A run that failed, for instance for lack of memory, keeps its checkpoint: it will be tried again.
    """
    store.write(record)
    if environment.checkpoints is not None:
        for path in environment.checkpoints.glob(f"{record.id}.{'json' if record.outcome == 'failed' else '*'}"):
            path.unlink(missing_ok=True)
