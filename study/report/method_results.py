"""From records to numbers. Accuracies and metrics are in percent."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.protocol.settings import Method, Scenario, is_reference
from study.records.run_record import RunRecord
from study.run.metrics import average_accuracy, backward_transfer, forgetting, learning_accuracy
from study.statistics import Summary, summarize

PHASES = ("training", "consolidation", "evaluation")


@dataclass(frozen=True)
class MethodResult:
    """One method in one scenario. Runs that diverged or failed enter no mean.

    Metrics over time exist only for methods that learn experience by experience: joint training has none.

    Attributes:
        scenario, method: which.
        settings: the method's kind and options.
        strength: λ; None for a method without one.
        records: in the order of the seeds.
    """

    scenario: Scenario
    method: str
    settings: Method
    strength: float | None
    records: tuple[RunRecord, ...]

    @cached_property
    def finished(self) -> tuple[RunRecord, ...]:
        return tuple(record for record in self.records if record.finished)

    @property
    def unfinished(self) -> tuple[RunRecord, ...]:
        return tuple(record for record in self.records if not record.finished)

    @property
    def is_reference(self) -> bool:
        return is_reference(self.settings)

    @property
    def is_sequential(self) -> bool:
        """Whether there is an accuracy row for each experience; not for joint training."""
        return bool(self.finished) and all(len(record.accuracy) > 1 for record in self.finished)

    @cached_property
    def scores(self) -> dict[int, float]:
        """Average accuracy by seed."""
        return {record.run.seed: 100 * average_accuracy(record.accuracy) for record in self.finished}

    @cached_property
    def accuracy(self) -> Summary | None:
        """Average accuracy; None if no run finished."""
        return _summary(list(self.scores.values())) if self.scores else None

    @property
    def forgetting(self) -> Summary | None:
        return self._sequential(forgetting, -100.0)

    @property
    def backward_transfer(self) -> Summary | None:
        return self._sequential(backward_transfer, -100.0)

    @property
    def learning_accuracy(self) -> Summary | None:
        return self._sequential(learning_accuracy)

    def _sequential(self, metric: Callable[[list[list[float]]], float], least: float = 0.0) -> Summary | None:
        if not self.is_sequential:
            return None
        return _summary([100 * metric(record.accuracy) for record in self.finished], least)

    @cached_property
    def curve(self) -> list[Summary]:
        """Mean accuracy over the experiences seen, after each experience; empty for joint training."""
        if not self.is_sequential:
            return []
        curves = [[np.mean(row[: k + 1]) for k, row in enumerate(record.accuracy)] for record in self.finished]
        return [_summary(at_one_time) for at_one_time in 100 * np.transpose(curves)]

    @cached_property
    def matrix(self) -> NDArray[np.float64]:
        """The accuracy matrix, mean over the seeds, shape (K, T). At least one run must have finished."""
        return 100 * np.mean([record.accuracy for record in self.finished], axis=0)

    def median(self, what: Callable[[RunRecord], float | None]) -> float | None:
        """Over the finished runs in which it was measured; None if there is none."""
        values = [value for record in self.finished if (value := what(record)) is not None]
        return float(np.median(values)) if values else None


def _summary(samples: ArrayLike, least: float = 0.0) -> Summary:
    """Of percentages: the interval ends at ``least`` and 100, which no accuracy leaves."""
    found = summarize(samples)
    low, high = np.clip((found.low, found.high), least, 100.0).tolist()
    return replace(found, low=low, high=high)
