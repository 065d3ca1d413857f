"""From records to numbers. Accuracies and metrics are in percent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from study.protocol.settings import Method, Scenario, is_reference
from study.records.run_record import RunRecord
from study.run.metrics import average_accuracy, backward_transfer, forgetting, learning_accuracy
from study.statistics import Summary, summarize


@dataclass(frozen=True)
class MethodResult:
    """One method in one scenario. Runs that diverged or failed enter no mean.

    Attributes:
        scenario, method: which.
        settings: the method's kind and options.
        strength: λ; None for a method without one.
        finished, unfinished: records by outcome, in the order of the seeds.
    """

    scenario: Scenario
    method: str
    settings: Method
    strength: float | None
    finished: tuple[RunRecord, ...]
    unfinished: tuple[RunRecord, ...] = ()

    @property
    def is_reference(self) -> bool:
        return is_reference(self.settings)

    @property
    def is_sequential(self) -> bool:
        """Whether there is an accuracy row for each experience; not for joint training."""
        return bool(self.finished) and all(len(record.accuracy) > 1 for record in self.finished)

    @cached_property
    def scores(self) -> dict[int, float]:
        return {record.run.seed: 100 * average_accuracy(record.accuracy) for record in self.finished}

    @cached_property
    def accuracy(self) -> Summary | None:
        """Average accuracy; None if no run finished."""
        return summarize(list(self.scores.values())) if self.scores else None

    @cached_property
    def forgetting(self) -> Summary | None:
        """Average forgetting; None for joint training or if no run finished."""
        return self._sequential(forgetting)

    @cached_property
    def backward_transfer(self) -> Summary | None:
        """Backward transfer; None as for forgetting."""
        return self._sequential(backward_transfer)

    @cached_property
    def learning_accuracy(self) -> Summary | None:
        """Learning accuracy; None as for forgetting."""
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

    def mean_seconds(self, phase: str) -> float | None:
        """Mean time in "training", "consolidation" or "evaluation"; None if no run finished."""
        return _mean([sum(getattr(record.seconds, phase)) for record in self.finished])

    @property
    def peak_memory(self) -> float | None:
        """Mean over the runs, in bytes; None where it was not measured."""
        return _mean([record.peak_memory for record in self.finished if record.peak_memory is not None])

    @property
    def plugin_memory(self) -> float | None:
        """Mean state of the method in bytes; None if no run finished."""
        return _mean([record.plugin_memory for record in self.finished])

    @property
    def plugin_scratch(self) -> float | None:
        """Mean scratch memory of the plugin in bytes; None if no run finished."""
        return _mean([record.plugin_scratch for record in self.finished])

    def _sequential(self, metric: Callable[[list[list[float]]], float]) -> Summary | None:
        if not self.is_sequential:
            return None
        return summarize([100 * metric(record.accuracy) for record in self.finished])

    def _over_time(self, curve: Callable[[NDArray[np.float64]], list[float]]) -> list[Summary]:
        if not self.is_sequential:
            return []
        curves = 100 * np.array([curve(np.array(record.accuracy)) for record in self.finished])
        return [summarize(at_one_time) for at_one_time in curves.T]


def method_result(
    scenario: Scenario, method: str, settings: Method, strength: float | None, records: Sequence[RunRecord]
) -> MethodResult:
    """The result of one method in one scenario."""
    finished = tuple(record for record in records if record.finished)
    unfinished = tuple(record for record in records if not record.finished)
    return MethodResult(scenario, method, settings, strength, finished, unfinished)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
