"""The record of a run: what was asked for, what it gave, and what it ran with."""

import platform
import re
from datetime import UTC, datetime

from study.run.result import Matrix, Outcome, RunResult, Seconds
from study.run.specification import Frozen, Run
from study.run.system import git_commit, processor, versions

RECORD_NAME = re.compile(r"(task|domain|class)-.+-seed\d+-[0-9a-f]{16}\.json")
"""Of the file of a record: see :meth:`study.run.specification.Run.file_name_with`."""


class Hardware(Frozen):
    """The machine that a run ran on.

    Attributes:
        system: operating system and processor architecture.
        processor: the CPU's model.
        gpu: the GPU's model; None for a run on the CPU.
    """

    system: str
    processor: str
    gpu: str | None = None


class RunRecord(Frozen):
    """What came of a run.

    Attributes:
        id: of the run, with the versions that it ran with.
        run: what was asked for.
        outcome: "finished"; "diverged" (NaN or infinity in loss, parameters or importance); or "failed".
        accuracy: shape (K, T), in [0, 1]: row k holds the accuracy on each of T experiences after the k-th training
            call. K = T, or 1 for joint training; fewer rows if the run did not finish.
        loss: mean cross-entropy on each experience's test data, of the same shape.
        training_loss: mean over the steps of each experience, penalty not included.
        seconds: see :class:`Seconds`.
        peak_memory: bytes, the largest that the process (on a GPU: PyTorch there) held in the run.
        plugin_memory: bytes that the method has to keep from one experience to the next: importance and anchor, stored
            examples, a copy of the model.
        plugin_scratch: bytes that its plugin holds beside, only to be fast.
        memory_examples: of replay: how many examples its memory holds in full.
        resumed: how often the run was continued from a checkpoint.
        error: of a run that did not finish: the traceback.
        ended: when, UTC, ISO 8601.
        versions, hardware, commit: what it ran with.
    """

    id: str
    run: Run
    outcome: Outcome
    accuracy: Matrix
    loss: Matrix
    training_loss: list[float]
    seconds: Seconds
    peak_memory: int | None = None
    plugin_memory: int = 0
    plugin_scratch: int = 0
    memory_examples: int | None = None
    resumed: int = 0
    error: str | None = None
    ended: str
    versions: dict[str, str]
    hardware: Hardware
    commit: str | None

    @property
    def finished(self) -> bool:
        return self.outcome == "finished"

    @property
    def last_line(self) -> str:
        """The last line of the error, without the traceback."""
        return (self.error or "").strip().rpartition("\n")[2]


def record_of(run: Run, result: RunResult) -> RunRecord:
    """Make the record of a run that has just ended on this machine."""
    fields = {key: value for key, value in vars(result).items() if key != "gpu"}
    return RunRecord(
        id=run.id,
        run=run,
        **fields,
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        hardware=Hardware(system=f"{platform.system()} {platform.machine()}", processor=processor(), gpu=result.gpu),
        commit=git_commit(),
    )
