"""The search for λ: on seeds that no report uses, evaluated on a part of the training data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from study.metrics import average_accuracy
from study.protocol import Protocol, Scenario, takes_strength
from study.records import Run, RunRecord


@dataclass(frozen=True)
class Choice:
    """What the search found for one method in one scenario.

    Attributes:
        scenario, method: for which.
        accuracy: for each λ of the grid that finished on every seed, in rising order, the average accuracy, a
            mean over the seeds, in [0, 1].
        best: the λ with the highest; the smallest of equals, since the weaker penalty assumes less.
        at_edge: whether it is the first or last of the grid, so that a wider grid may find a better one.
    """

    scenario: Scenario
    method: str
    accuracy: dict[float, float]
    best: float
    at_edge: bool


def tuning_runs(name: str, protocol: Protocol, scenarios: Sequence[Scenario], methods: Sequence[str]) -> list[Run]:
    """Every λ of the grid, on every tuning seed, for those methods that have a λ."""
    tuning = protocol.tuning
    return [
        Run.of(name, protocol, scenario, method, seed).model_copy(
            update={
                "strength": strength,
                "evaluated_on": "validation",
                "validation_fraction": tuning.validation_fraction,
            }
        )
        for scenario in scenarios
        for method in methods
        if takes_strength(protocol.methods[method])
        for strength in tuning.grid[method]
        for seed in tuning.seeds
    ]


def choose(records: Iterable[RunRecord]) -> list[Choice]:
    """The best λ of each method in each scenario, in the order of the records.

    A λ with which any run failed is not chosen; a method with which no λ finished is left out.
    """
    samples: dict[tuple[Scenario, str], dict[float, list[float | None]]] = {}
    for record in records:
        by_strength = samples.setdefault((record.run.scenario, record.run.label), {})
        accuracy = average_accuracy(record.accuracy) if record.accuracy is not None else None
        by_strength.setdefault(record.run.strength, []).append(accuracy)
    choices = []
    for (scenario, method), by_strength in samples.items():
        means = {λ: sum(a) / len(a) for λ, a in sorted(by_strength.items()) if None not in a}
        if means:
            best = max(means, key=means.get)
            at_edge = best in (min(by_strength), max(by_strength))
            choices.append(Choice(scenario, method, means, best, at_edge))
    return choices
