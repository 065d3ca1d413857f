"""The result of a run."""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from study.run.specification import Frozen

Matrix = list[list[float]]
Outcome = Literal["finished", "diverged", "failed"]


class Seconds(Frozen):
    """Wall-clock time of a run, one entry for each experience.

    Attributes:
        training: reading data and training steps.
        consolidation: measuring importance and everything that plugins do after the last step.
        evaluation: on all experiences.
    """

    training: list[float] = Field(default_factory=list)
    consolidation: list[float] = Field(default_factory=list)
    evaluation: list[float] = Field(default_factory=list)

    @property
    def total(self) -> float:
        return sum(self.training) + sum(self.consolidation) + sum(self.evaluation)


@dataclass(kw_only=True)
class Progress:
    """What a run has measured so far; fields as in :class:`study.records.run_record.RunRecord`."""

    accuracy: Matrix = field(default_factory=list)
    loss: Matrix = field(default_factory=list)
    training_loss: list[float] = field(default_factory=list)
    seconds: Seconds = field(default_factory=Seconds)
    resumed: int = 0


@dataclass(kw_only=True)
class RunResult(Progress):
    """The result of a run; further fields as in :class:`study.records.run_record.RunRecord`, and the GPU's model."""

    outcome: Outcome
    peak_memory: int | None = None
    plugin_memory: int = 0
    plugin_scratch: int = 0
    memory_examples: int | None = None
    error: str | None = None
    gpu: str | None = None

    @property
    def finished(self) -> bool:
        return self.outcome == "finished"
