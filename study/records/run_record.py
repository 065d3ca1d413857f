"""The record of a run: settings, result, and what it ran with."""

import hashlib
import json
import operator
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, FiniteFloat, model_validator

from study.protocol.table import Own
from study.run.result import Matrix, Natural, Outcome, RunResult, Seconds, Share
from study.run.specification import Frozen, Run
from study.run.system import git_commit, processor, versions

RECORD_NAME = re.compile(r"(task|domain|class)-.+-seed\d+-[0-9a-f]{16}\.json")
"""Of the file of a record: see :meth:`study.run.specification.Run.file_name_with`."""


def checksum_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of a record as in JSON, in hexadecimal digits, without its checksum."""
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _in_utc(text: str) -> str:
    if datetime.fromisoformat(text).utcoffset() != timedelta(0):
        raise ValueError("allowed: a time in UTC, as in 2026-03-01T10:00:00+00:00")
    return text


class Hardware(Frozen):
    """The machine of a run: system and architecture, CPU model, and GPU model (None on the CPU)."""

    system: str
    processor: str
    gpu: str | None = None


class RunRecord(Frozen):
    """The record of a run; pydantic's ValidationError if it cannot be that of any.

    Attributes:
        id: of the run, with its versions.
        run: what was asked for.
        outcome: "finished"; "diverged" (NaN or infinity in loss, parameters or importance); or "failed".
        accuracy: shape (K, T), in [0, 1]: row k holds the accuracy on each of T experiences after the k-th training
            call. K = T, or 1 for joint training; fewer rows if the run did not finish.
        loss: mean cross-entropy on each experience's test data, same shape, at least 0; infinite or NaN where the
            model masks the classes of an experience.
        training_loss: mean over the steps of each experience, without the penalty; NaN if the strategy takes none.
        seconds: see :class:`Seconds`.
        importance: Σ_i Ω_i of everything consolidated so far, negative entries included, after each experience; empty
            for a method that has none. Records of earlier versions have none, and are written again without it.
        peak_memory: bytes, of the process, or of PyTorch on a GPU.
        plugin_memory: bytes that the method keeps between experiences: importance and anchor, examples, a copy of the
            model.
        plugin_scratch: bytes that its plugin holds only for speed.
        memory_examples: capacity of a replay memory.
        resumed: how often the run was resumed from a checkpoint.
        error: traceback of a run that did not finish, None for one that did.
        ended: UTC, ISO 8601.
        versions, hardware, commit: what it ran with.
        checksum: of all the rest when it was written, see :func:`checksum_of`; None in archives of earlier versions.
    """

    id: str
    run: Run
    outcome: Outcome
    accuracy: list[list[Share]]
    loss: Matrix
    training_loss: list[float]
    seconds: Seconds
    importance: list[FiniteFloat] = Field(default_factory=list, exclude_if=operator.not_)
    peak_memory: Natural | None = None
    plugin_memory: Natural = 0
    plugin_scratch: Natural = 0
    memory_examples: Natural | None = None
    resumed: Natural = 0
    error: str | None = None
    ended: Annotated[str, AfterValidator(_in_utc)]
    versions: dict[str, str]
    hardware: Hardware
    commit: str | None
    checksum: str | None = None

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        rows, widths = len(self.accuracy), {len(row) for row in self.accuracy}
        experiences = max(widths, default=1) if isinstance(self.run.benchmark, Own) else self.run.benchmark.experiences
        calls = 1 if self.run.method.kind == "joint" else experiences
        if rows > calls or (self.finished and rows != calls) or not widths <= {experiences} or widths == {0}:
            allowed = f"{'' if self.finished else 'at most '}{calls} rows of {experiences}"
            raise ValueError(f"accuracy has {rows} rows of {sorted(widths)} entries; allowed: {allowed}")
        if [len(row) for row in self.loss] != [len(row) for row in self.accuracy]:
            raise ValueError("loss and accuracy differ in shape")
        if any(value < 0 for row in self.loss for value in row):
            raise ValueError("loss holds a negative number; allowed: at least 0")
        for name, values in (("training_loss", self.training_loss), *((f"seconds.{n}", v) for n, v in self.seconds)):
            if len(values) != rows:
                raise ValueError(f"{name} has {len(values)} entries, and accuracy {rows} rows")
        if len(self.importance) not in (0, rows):
            raise ValueError(
                f"importance has {len(self.importance)} entries, and accuracy {rows} rows; allowed: 0 or {rows}"
            )
        if self.finished != (self.error is None):
            raise ValueError(f"an error goes with a run that did not finish, only, and outcome is {self.outcome!r}")
        return self

    def sealed(self) -> Self:
        """The same record with the checksum of its content."""
        content = self.model_dump(mode="json", exclude={"checksum"})
        return self.model_copy(update={"checksum": checksum_of(content)})

    @property
    def file_name(self) -> str:
        return self.run.file_name_with(self.id)

    @property
    def finished(self) -> bool:
        return self.outcome == "finished"

    @property
    def final(self) -> bool:
        """Whether another try would end the same: a run that failed is tried again."""
        return self.outcome != "failed"

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
    ).sealed()
