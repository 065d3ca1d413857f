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


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The result of a run; fields as in :class:`study.records.run_record.RunRecord`, and the GPU's model."""

    outcome: Outcome
    accuracy: Matrix = field(default_factory=list)
    loss: Matrix = field(default_factory=list)
    training_loss: list[float] = field(default_factory=list)
    seconds: Seconds = field(default_factory=Seconds)
    peak_memory: int | None = None
    plugin_memory: int = 0
    plugin_scratch: int = 0
    memory_examples: int | None = None
    resumed: int = 0
    error: str | None = None
    gpu: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the run reached its end."""
        return self.outcome == "finished"
