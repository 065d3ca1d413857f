"""The search for λ and other options, on its own seeds and validation data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from study.errors import MissingRecords, ProtocolError
from study.protocol.schema import Protocol
from study.protocol.settings import Method, Scenario
from study.records.deduplicate import deduplicate
from study.records.run_record import RunRecord
from study.run.specification import Run


@dataclass(frozen=True)
class Choice:
    """The result of the search for one method in one scenario.

    Attributes:
        scenario, method: which.
        options: names of the searched options, "strength" (λ) first.
        by_seed: by combination of values, the average accuracy in [0, 1] of each seed; only combinations that finished
            on every seed.
        best: the combination with the highest accuracy; the smallest λ among equals.
        best_method, strength: the method's settings and λ of that combination.
        at_edge: whether its λ is the first or last of the grid.
    """

    scenario: Scenario
    method: str
    options: tuple[str, ...]
    by_seed: dict[tuple[Any, ...], tuple[float, ...]]
    best: tuple[Any, ...]
    best_method: Method
    strength: float
    at_edge: bool

    @cached_property
    def accuracy(self) -> dict[tuple[Any, ...], float]:
        """By combination of values, the mean over the seeds."""
        return {combination: fmean(of_seeds) for combination, of_seeds in self.by_seed.items()}


def tuning_runs(
    name: str, protocol: Protocol, scenarios: Sequence[Scenario], methods: Sequence[str], device: str = "cpu"
) -> list[Run]:
    """Every combination of the grid, on every tuning seed, for those methods that the protocol searches for.

    Raises:
        ProtocolError: the protocol has no grid for any of these methods.
    """
    tuning = protocol.tuning
    searched = [method for method in methods if tuning is not None and method in tuning.grid]
    if not searched:
        raise ProtocolError(f"tuning.grid has no values to try for {', '.join(methods)}")
    validation = {"evaluated_on": "validation", "validation_fraction": tuning.validation_fraction}
    runs = []
    for scenario in scenarios:
        for method in searched:
            for values in tuning.combinations(method):
                settings, strength = protocol.variant(method, values)
                more = {"settings": settings, "strength": strength, "device": device}
                of_seeds = (Run.of(name, protocol, scenario, method, seed, **more) for seed in tuning.seeds)
                runs += (run.model_copy(update=validation) for run in of_seeds)
    return runs


def choose(name: str, protocol: Protocol, records: Iterable[RunRecord]) -> list[Choice]:
    """The best combination for each method and scenario whose whole grid has been tried.

    Combinations with a run that diverged or failed are not chosen; methods without a finished combination are left out.
    Records of other settings are ignored.
    """
    if protocol.tuning is None:
        return []
    found = deduplicate(records, lambda record: content_on_any_device(record.run))
    choices = []
    for scenario in protocol.scenarios:
        for method, grid in protocol.tuning.grid.items():
            runs = tuning_runs(name, protocol, [scenario], [method])
            if any(run.content not in found for run in runs):
                continue
            options = ("strength", *(option for option in grid if option != "strength"))
            samples: dict[tuple[Any, ...], list[RunRecord]] = {}
            for run in runs:
                values = (run.strength if option == "strength" else getattr(run.method, option) for option in options)
                samples.setdefault(tuple(values), []).append(found[run.content])
            choices.append(_best(scenario, method, options, samples))
    return [choice for choice in choices if choice is not None]


def content_on_any_device(run: Run) -> str:
    """Identifies a run of the search on any device."""
    return run.model_copy(update={"device": "cpu"}).content


def _best(
    scenario: Scenario, method: str, options: tuple[str, ...], samples: dict[tuple[Any, ...], list[RunRecord]]
) -> Choice | None:
    from study.run.metrics import average_accuracy  # with numpy, which other commands need not wait for

    by_seed = {
        combination: tuple(average_accuracy(record.accuracy) for record in of_all_seeds)
        for combination, of_all_seeds in sorted(samples.items(), key=lambda item: item[0][0])
        if all(record.finished for record in of_all_seeds)
    }
    if not by_seed:
        return None
    best = max(by_seed, key=lambda combination: fmean(by_seed[combination]))
    run = samples[best][0].run
    strengths = [values[0] for values in samples]
    at_edge = best[0] in (min(strengths), max(strengths))
    return Choice(scenario, method, options, by_seed, best, run.method, run.strength, at_edge)


def planned_run(
    name: str,
    protocol: Protocol,
    scenario: Scenario,
    method: str,
    seed: int,
    choices: Sequence[Choice],
    device: str = "cpu",
) -> Run:
    """A run of a protocol's method, see :func:`resolve`."""
    settings, strength = resolve(protocol, scenario, method, choices)
    return Run.of(name, protocol, scenario, method, seed, settings=settings, strength=strength, device=device)


def resolve(
    protocol: Protocol, scenario: Scenario, method: str, choices: Sequence[Choice]
) -> tuple[Method, float | None]:
    """The settings and λ of a method, with those of the search where the protocol says "tuned".

    Raises:
        MissingRecords: λ is "tuned" and the search has not been done.
    """
    strength = protocol.strength_of(method, scenario)
    if strength != "tuned":
        return protocol.methods[method], strength
    for choice in choices:
        if (choice.scenario, choice.method) == (scenario, method):
            return choice.best_method, choice.strength
    key = f"strength.{method}.{scenario}"
    raise MissingRecords(
        f"{key} = 'tuned': no search of these settings and this code has chosen it yet (--set {key}=100 would give it "
        "a value)",
        "tune",
    )
