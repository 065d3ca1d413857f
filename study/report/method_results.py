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

Matrix = list[list[float]]
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

    @cached_property
    def curve(self) -> list[Summary]:
        """Mean accuracy over the experiences seen, after each experience; empty for joint training."""
        return self._over_time(lambda matrix: [float(row[: k + 1].mean()) for k, row in enumerate(matrix)])

    @cached_property
    def first_experience(self) -> list[Summary]:
        """Accuracy on the first experience, after each experience; empty for joint training."""
        return self._over_time(lambda matrix: matrix[:, 0].tolist())

    @cached_property
    def matrix(self) -> NDArray[np.float64]:
        """The accuracy matrix, mean over the seeds, shape (K, T). At least one run must have finished."""
        return 100 * np.mean([record.accuracy for record in self.finished], axis=0)

    def mean_seconds(self, phase: str) -> float:
        """Mean time in one of :data:`PHASES`."""
        return self.mean(lambda record: sum(getattr(record.seconds, phase))) or 0.0

    def mean(self, what: Callable[[RunRecord], float | None]) -> float | None:
        """Mean over the finished runs in which it was measured; None if there is none."""
        values = [value for record in self.finished if (value := what(record)) is not None]
        return float(np.mean(values)) if values else None

    @property
    def plugin_memory(self) -> float | None:
        """Mean state of the method in bytes; None if no run finished."""
        return self.mean(lambda record: record.plugin_memory)

    def _sequential(self, metric: Callable[[Matrix], float], least: float = 0.0) -> Summary | None:
        if not self.is_sequential:
            return None
        return _summary([100 * metric(record.accuracy) for record in self.finished], least)

    def _over_time(self, curve: Callable[[NDArray[np.float64]], list[float]]) -> list[Summary]:
        if not self.is_sequential:
            return []
        curves = 100 * np.array([curve(np.array(record.accuracy)) for record in self.finished])
        return [_summary(at_one_time) for at_one_time in curves.T]


def _summary(samples: ArrayLike, least: float = 0.0) -> Summary:
    """Of percentages: the interval ends at ``least`` and 100, which no accuracy leaves."""
    found = summarize(samples)
    low, high = np.clip((found.low, found.high), least, 100.0).tolist()
    return replace(found, low=low, high=high)
