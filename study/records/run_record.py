"""The record of a run: settings, result, and what it ran with."""

import platform
import re
from datetime import UTC, datetime
from pathlib import Path

from study.run.result import Matrix, Outcome, RunResult, Seconds
from study.run.specification import Frozen, Run
from study.run.system import git_commit, processor, versions

RECORD_NAME = re.compile(r"(task|domain|class)-.+-seed\d+-[0-9a-f]{16}\.json")
"""Of the file of a record: see :meth:`study.run.specification.Run.file_name_with`."""


class Hardware(Frozen):
    """The machine of a run: system and architecture, CPU model, and GPU model (None on the CPU)."""

    system: str
    processor: str
    gpu: str | None = None


class RunRecord(Frozen):
    """The record of a run.

    Attributes:
        id: of the run, with its versions.
        run: what was asked for.
        outcome: "finished"; "diverged" (NaN or infinity in loss, parameters or importance); or "failed".
        accuracy: shape (K, T), in [0, 1]: row k holds the accuracy on each of T experiences after the k-th training
            call. K = T, or 1 for joint training; fewer rows if the run did not finish.
        loss: mean cross-entropy on each experience's test data, same shape.
        training_loss: mean over the steps of each experience, without the penalty.
        seconds: see :class:`Seconds`.
        peak_memory: bytes, of the process, or of PyTorch on a GPU.
        plugin_memory: bytes that the method keeps between experiences: importance and anchor, examples, a copy of the
            model.
        plugin_scratch: bytes that its plugin holds only for speed.
        memory_examples: capacity of a replay memory.
        resumed: how often the run was resumed from a checkpoint.
        error: traceback of a run that did not finish.
        ended: UTC, ISO 8601.
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

    @property
    def place(self) -> str:
        """`` (file, line n)`` of the error: the last in a file of the user's own if it passed one, else the last."""
        frames = re.findall(r'^  File "(.+)", line (\d+)', self.error or "", re.MULTILINE)
        files = [table.file for table, _ in self.run.own_code]
        own = {Path(file).name if file.endswith(".py") else f"{file.rpartition('.')[2]}.py" for file in files}
        for file, line in [frame for frame in frames if Path(frame[0]).name in own][-1:] or frames[-1:]:
            return f" ({file}, line {line})"
        return ""


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
