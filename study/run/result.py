"""The result of a run."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from study.run.specification import Frozen

Matrix = list[list[float]]
Outcome = Literal["finished", "diverged", "failed"]
Natural = Annotated[int, Field(ge=0, le=2**63 - 1)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Times = list[Annotated[float, Field(ge=0, allow_inf_nan=False)]]


class Seconds(Frozen):
    """Wall-clock time of a run, one entry for each experience.

    Attributes:
        training: reading data and training steps.
        consolidation: measuring importance and everything that plugins do after the last step.
        evaluation: on all experiences.
    """

    training: Times = Field(default_factory=list)
    consolidation: Times = Field(default_factory=list)
    evaluation: Times = Field(default_factory=list)

    @property
    def total(self) -> float:
        return sum(self.training) + sum(self.consolidation) + sum(self.evaluation)


class ProgressReport(Frozen):
    """What a run under way says of itself.

    Attributes:
        run: its scenario, method and seed, for readers.
        experiences, of: done, and in total.
        accuracy: average over the experiences done; None before the first.
    """

    run: str
    experiences: Natural
    of: Annotated[int, Field(ge=1)]
    accuracy: Share | None

    @model_validator(mode="after")
    def _no_more_than_all(self) -> Self:
        if self.experiences > self.of or (self.accuracy is None) != (self.experiences == 0):
            raise ValueError(f"{self.experiences} of {self.of} experiences, accuracy {self.accuracy}")
        return self


@dataclass(kw_only=True)
class Progress:
    """What a run has measured so far; fields as in :class:`study.records.run_record.RunRecord`."""

    accuracy: Matrix = field(default_factory=list)
    loss: Matrix = field(default_factory=list)
    training_loss: list[float] = field(default_factory=list)
    seconds: Seconds = field(default_factory=Seconds)
    importance: list[float] = field(default_factory=list)
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
