"""One run of a campaign: performed, recorded, and its checkpoint dropped."""

import time
from contextlib import suppress
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Silence:
    """The limit on how long an experience of a run may take, all told.

    Args:
        folder: of the progress reports of runs.
        minutes: from the start or the last experience that ended; None for no limit.
    """

    folder: Path
    minutes: float | None = None

    @property
    def look_every(self) -> float | None:
        """Seconds."""
        return None if self.minutes is None else 1.0

    def exceeded(self, run: Run, began: float) -> bool:
        """Whether a run that began at that time has said nothing for too long."""
        if self.minutes is None:
            return False
        with suppress(FileNotFoundError):  # no experience has ended yet, or the run has
            began = max(began, (self.folder / f"{run.id}.json").stat().st_mtime)
        return time.time() - began > 60 * self.minutes


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
        for path in environment.checkpoints.glob(f"{record.id}.{'json' if record.outcome == 'failed' else '*'}"):
            path.unlink(missing_ok=True)
