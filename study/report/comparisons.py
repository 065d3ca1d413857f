"""Comparisons with published numbers, between methods, and over scenarios; in percent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from study.protocol.schema import Comparisons, Protocol, Published, PublishedNumber
from study.protocol.settings import Scenario
from study.report.method_results import MethodResult
from study.report.number_formats import p_equals
from study.report.provenance import changes
from study.statistics import (
    FamilyComparison,
    FriedmanResult,
    PairedComparison,
    PublishedComparison,
    compare_paired,
    compare_with_published,
    family,
    family_pairs,
    friedman,
)

NO_RUN = "no finished run"
OTHER_SETTINGS = "other settings"
LEVEL = 0.05
"""Of every test, and one minus the confidence of every interval."""


@dataclass(frozen=True)
class PublishedRow:
    """One published number and ours.

    Attributes:
        scenario, method: which.
        table: where it was published.
        number: what was published.
        comparison: with ours; None if no run of ours finished.
        kind: of the method.
        seeds: how many the protocol asks for.
        changes: how our settings differ from the published ones; if not empty, there is no verdict.
    """

    scenario: Scenario
    method: str
    table: Published
    number: PublishedNumber
    comparison: PublishedComparison | None
    kind: str
    seeds: int
    changes: str = ""

    @property
    def number_key(self) -> tuple[object, ...]:
        """Equal for rows that share one published number, such as variants of a method.

        The kind of method belongs to it, since two methods of one table can have equal values. Avalanche's plugins
        count as the kind that they implement.
        """
        number = self.number
        return self.table.source, self.scenario, number.mean, number.spread, self.kind.removeprefix("avalanche_")

    @property
    def verdict(self) -> str:
        """The comparison's verdict, or why there is none."""
        if self.comparison is None:
            return NO_RUN
        return OTHER_SETTINGS if self.changes else self.comparison.verdict


def against_published(protocol: Protocol, results: Sequence[MethodResult]) -> list[PublishedRow]:
    """Every published number of a protocol, by scenario, source and method, compared with our results."""
    by_method = {(result.scenario, result.method): result for result in results}
    rows = []
    for scenario in protocol.scenarios:
        for table in protocol.published:
            for method in protocol.methods:
                number = table.results.get(method, {}).get(scenario)
                if number is not None:
                    ours = by_method.get((scenario, method))
                    compared = _compare(ours, table, number)
                    kind, changed = protocol.methods[method].kind, changes(protocol, table, scenario, method)
                    rows.append(PublishedRow(scenario, method, table, number, compared, kind, protocol.seeds, changed))
    return rows


def _compare(ours: MethodResult | None, table: Published, number: PublishedNumber) -> PublishedComparison | None:
    if ours is None or not ours.scores:
        return None
    return compare_with_published(
        list(ours.scores.values()),
        number.mean,
        number.spread,
        None if table.spread == "none" else table.spread,
        table.n,
        table.margin if number.margin is None else number.margin,
        LEVEL,
    )


def compare_methods(results: Sequence[MethodResult], comparisons: Comparisons | None = None) -> list[FamilyComparison]:
    """The family of comparisons of one scenario, paired by common seeds, with Holm's correction.

    Methods without a common seed form no pair.

    Args:
        results: of the scenario.
        comparisons: the family that the protocol names; None for all pairs.
    """
    if comparisons is not None:
        results = [result for result in results if not result.is_reference]
    scores = {result.method: result.scores for result in results}
    return family(
        [
            (a, b, paired_by_seed(scores[a], scores[b]))
            for a, b in family_pairs(scores, comparisons.baselines if comparisons else ())
            if a in scores and b in scores and scores[a].keys() & scores[b].keys()
        ],
        LEVEL,
    )


def paired_by_seed(a: Mapping[int, float], b: Mapping[int, float]) -> PairedComparison:
    """Compare two methods, given scores by seed, over their common seeds (at least one)."""
    seeds = sorted(a.keys() & b.keys())
    return compare_paired([a[seed] for seed in seeds], [b[seed] for seed in seeds], 1 - LEVEL)


@dataclass(frozen=True)
class Ranks:
    """Methods ranked by average accuracy in several scenarios.

    Attributes:
        blocks: names of the scenarios.
        methods: those that finished in all of them.
        result: Friedman's test and Nemenyi's critical difference.
    """

    blocks: tuple[str, ...]
    methods: tuple[str, ...]
    result: FriedmanResult

    @property
    def can_differ(self) -> bool:
        """Whether any difference of average ranks could exceed the critical difference."""
        return self.result.critical_difference < len(self.methods) - 1

    @property
    def best_first(self) -> list[tuple[str, float]]:
        return sorted(zip(self.methods, self.result.average_ranks, strict=True), key=lambda item: item[1])

    @property
    def averages(self) -> str:
        """The average ranks, the best first."""
        return f"Average ranks: {', '.join(f'{method} {rank:.2f}' for method, rank in self.best_first)}."

    @property
    def friedman(self) -> str:
        """The tests of whether any ranks differ."""
        result = self.result
        return f"Friedman's χ² = {result.chi2:.2f}, {p_equals(result.p)}; Iman and Davenport's {p_equals(result.p_f)}."


def ranks_over_scenarios(results: Sequence[MethodResult]) -> Ranks | None:
    """As :func:`rank_methods`, over the scenarios of one study."""
    scores: dict[str, dict[str, float]] = {}
    for result in results:
        if result.accuracy is not None:
            scores.setdefault(result.scenario, {})[result.method] = result.accuracy.mean
    return rank_methods(scores)


def rank_methods(scores: Mapping[str, Mapping[str, float]]) -> Ranks | None:
    """Friedman's test on scores by block and method; None with fewer than 2 blocks or 3 methods common to all."""
    names = dict.fromkeys(method for block in scores.values() for method in block)
    methods = tuple(method for method in names if all(method in block for block in scores.values()))
    if len(scores) < 2 or len(methods) < 3:
        return None
    table = [[block[method] for method in methods] for block in scores.values()]
    return Ranks(tuple(scores), methods, friedman(table, LEVEL))
