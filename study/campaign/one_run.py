"""One run of a campaign: performed, recorded, and its checkpoint dropped."""

from pathlib import Path

from study.records.run_record import RunRecord, record_of
from study.records.store import RunStore
from study.run.result import RunResult
from study.run.run_environment import RunEnvironment
from study.run.specification import Run

TRIES = 2
"""How often a run is begun whose process is lost before its record is there."""

DIED = "the process of this run died (killed, or out of memory?)"
SILENT = "no experience of this run ended within --max-silence"


class Silence:
    """How long a run has reported no experience.

    Args:
        report: its progress file.
        minutes: how long an experience may take.
    """

    def __init__(self, report: Path, minutes: float) -> None:
        self._report, self._minutes = report, minutes
        self._latest: float | None = None
        self._since: float | None = None

    def is_too_long(self, now: float) -> bool:
        """Whether it is, at a time in seconds of a clock that stands still while the machine sleeps."""
        try:
            latest = self._report.stat().st_mtime
        except FileNotFoundError:
            latest = None
        if self._since is None or latest != self._latest:
            self._latest, self._since = latest, now
        return now - self._since > 60 * self._minutes


def lost(run: Run, problem: str) -> RunRecord:
    """Says of a run that it was lost. It is not stored: the next call tries it again."""
    return record_of(run, RunResult(outcome="failed", error=problem))


def is_lost(record: RunRecord) -> bool:
    return record.error in (DIED, SILENT)


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
        for suffix in (".json",) if record.outcome == "failed" else (".json", ".pt"):
            (environment.checkpoints / f"{record.id}{suffix}").unlink(missing_ok=True)
