"""Comparisons with published numbers and between methods, in percent, and the words for them."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from study.protocol.schema import Comparisons, Protocol, Published, PublishedNumber
from study.protocol.settings import Scenario
from study.protocol.table import Own
from study.report.document import Cell, Column
from study.report.method_results import MethodResult
from study.report.number_formats import count, p_equals, p_value, points, signed_points, with_interval
from study.report.provenance import changes
from study.statistics import (
    EXACT_UP_TO,
    FEWEST_JUDGED,
    FamilyComparison,
    PairedComparison,
    PublishedComparison,
    compare_paired,
    compare_with_published,
    detectable_difference,
    family,
    family_pairs,
    fewest_pairs,
)

NO_RUN = "no finished run"
OTHER_SETTINGS = "other settings"
VERDICTS = ("below", "above", "inconclusive", "not testable", OTHER_SETTINGS, NO_RUN, "reproduced")
"""In the order of the table: those that need attention first."""

LEVEL = 0.05
"""Of every test, and one minus the confidence of every interval."""

MARGIN = 1.5
"""Percentage points within which an accuracy counts as the same, if the method's gain over none does not say less."""

MARGIN_RULE = (
    f"The margin is {MARGIN} points or, except for training without a penalty itself, half of the published distance "
    "from it where that is less."
)
VERDICT_MEANINGS = {
    "reproduced": "an equivalence test (TOST) shows that our mean lies within the margin of the published one",
    "above": "our mean is not shown to lie within the margin, and Welch's t-test shows that it is higher",
    "below": "our mean is not shown to lie within the margin, and Welch's t-test shows that it is lower",
    "inconclusive": f"neither equivalence nor a difference is shown, or we have fewer than {FEWEST_JUDGED} seeds",
    "not testable": (
        "no runs of ours could pass, since the published mean's standard error is too large for the margin, or the "
        "margin is 0; it counts as neither tried nor failed"
    ),
    OTHER_SETTINGS: "our settings differ from the published ones, so there is no verdict",
}


def verdict_meanings(verdicts: Collection[str]) -> str:
    """What each of the verdicts given means."""
    return " ".join(f"`{verdict}`: {meaning}." for verdict, meaning in VERDICT_MEANINGS.items() if verdict in verdicts)


ABOUT_VERDICTS = (
    f"{MARGIN_RULE} {verdict_meanings(VERDICT_MEANINGS)} Context is not counted: another method's row is the "
    f"comparison with that number. All tests at level {LEVEL}, on the average accuracy over all experiences at the "
    "end, in percent."
)


@dataclass(frozen=True)
class PublishedRow:
    """A published number of a method, ours (None without a record), and their comparison (None if no run finished).

    ``changes`` says how our settings differ from the published ones; if not empty, there is no verdict. A row of
    ``context`` is not counted: another method's is the comparison with that number.
    """

    scenario: Scenario
    method: str
    table: Published
    number: PublishedNumber
    ours: MethodResult | None
    comparison: PublishedComparison | None
    changes: str

    @property
    def verdict(self) -> str:
        """The comparison's verdict, or why there is none."""
        if self.comparison is None:
            return NO_RUN
        if self.changes:
            return OTHER_SETTINGS
        return self.comparison.verdict

    @property
    def context(self) -> bool:
        return self.method in self.table.context

    @property
    def limits(self) -> str:
        """What limits the comparison, separated by semicolons; empty if nothing does."""
        if self.comparison is None:
            return ""
        seeds = self.comparison.ours.n
        few = count(seeds, "seed") if seeds < FEWEST_JUDGED else ""
        context = "context, not counted" if self.context else ""
        exact = "published without a spread: taken as exact" if self.number.spread is None else ""
        return "; ".join(filter(None, (context, self.changes, few, exact)))


def against_published(protocol: Protocol, results: Sequence[MethodResult]) -> list[PublishedRow]:
    """Every published number of a protocol, by scenario, source and method, compared with our results."""
    by_method = {(result.scenario, result.method): result for result in results}
    rows = []
    for scenario, table, method in product(protocol.scenarios, protocol.published, protocol.methods):
        if number := table.results.get(method, {}).get(scenario):
            ours = by_method.get((scenario, method))
            margin = published_margin(protocol, table, scenario, method)
            compared = _compare(ours, table, number, margin) if ours is not None and ours.scores else None
            changed = changes(protocol, table, scenario, method)
            rows.append(PublishedRow(scenario, method, table, number, ours, compared, changed))
    return rows


def published_margin(protocol: Protocol, table: Published, scenario: Scenario, method: str) -> float:
    """The difference from a published number that counts as none: the one rule of all protocols.

    :data:`MARGIN` points, or half of the number's distance from that of training without a penalty where that is less,
    so that what is no better than none does not pass for an improvement on it. That of none is of the same table, or
    of the first that has it.
    """
    naive = [name for name, each in protocol.methods.items() if each.kind == "naive"]
    tables = [each.results for each in (table, *protocol.published)]
    none = [each[name][scenario].mean for each in tables for name in naive if scenario in each.get(name, {})]
    if not none or method in naive:
        return MARGIN
    return min(MARGIN, abs(table.results[method][scenario].mean - none[0]) / 2)


def _compare(ours: MethodResult, table: Published, number: PublishedNumber, margin: float) -> PublishedComparison:
    spread_kind = None if table.spread == "none" else table.spread
    scores = list(ours.scores.values())
    return compare_with_published(scores, number.mean, number.spread, spread_kind, table.n, margin, LEVEL)


def compare_methods(results: Sequence[MethodResult], families: Sequence[Comparisons] = ()) -> list[FamilyComparison]:
    """The families that the protocol names (none: all pairs) for one scenario, paired by common seeds.

    p is corrected within each family. A difference is a method minus its baseline: one that the protocol names, or else
    training without a penalty, or the method that the user's own one is compared with.
    """
    if families:
        results = [result for result in results if not result.is_reference]
    scores = {result.method: result.scores for result in results}
    named = [(family_pairs(scores, each.baselines, each.methods), each.margin) for each in families]
    found = []
    for pairs, margin in named or [(_all_pairs(results), None)]:
        shared = [(a, b) for a, b in pairs if a in scores and b in scores and scores[a].keys() & scores[b].keys()]
        found += family([(a, b, paired_by_seed(scores[a], scores[b])) for a, b in shared], LEVEL, margin)
    return found


def _all_pairs(results: Sequence[MethodResult]) -> list[tuple[str, str]]:
    rank = {each.method: 2 if each.settings.kind == "naive" else not isinstance(each.settings, Own) for each in results}
    return [(b, a) if rank[a] > rank[b] else (a, b) for a, b in family_pairs(rank)]


def paired_by_seed(a: Mapping[int, float], b: Mapping[int, float]) -> PairedComparison:
    """Compare two methods, given scores by seed, over their common seeds (at least one)."""
    seeds = sorted(a.keys() & b.keys())
    return compare_paired([a[seed] for seed in seeds], [b[seed] for seed in seeds], 1 - LEVEL)


def sign_flip_test(pairs: Sequence[FamilyComparison]) -> str:
    """The name of the test, "exact" only if the seeds are few enough for all flips."""
    exact = [pair.comparison.n <= EXACT_UP_TO for pair in pairs]
    if all(exact):
        return "exact sign-flip permutation test"
    return f"sign-flip permutation test{f' (exact up to {EXACT_UP_TO} seeds)' if any(exact) else ''}"


def pairs_notes(pairs: Sequence[FamilyComparison]) -> list[str]:
    """Notes on the star and on how many seeds a test needs."""
    notes = ["*: significant after Holm's correction."] if any(pair.significant for pair in pairs) else []
    smallest = {(pair.comparison.n, pair.size): pair.comparison.p_smallest for pair in pairs if not pair.reachable}
    return notes + [
        f"Too few seeds ({seeds}): smallest reachable {p_equals(p)}, after Holm's correction over "
        f"{count(size, 'comparison')} {p_equals(min(1.0, p * size))}; "
        f"{fewest_pairs(LEVEL / size)} seeds could reach {LEVEL}."
        for (seeds, size), p in sorted(smallest.items())
    ]


def _detectable(pair: FamilyComparison) -> float | None:
    """The difference that is found with probability 0.8; None where there are too few seeds for any."""
    found = detectable_difference(pair.comparison.sd, pair.comparison.n, LEVEL / pair.size)
    return found if math.isfinite(found) else None


def equivalence_notes(pairs: Iterable[FamilyComparison]) -> list[str]:
    """For how many pairs the equivalence test could not have passed."""
    tested = [pair for pair in pairs if pair.margin is not None and pair.comparison.n >= FEWEST_JUDGED]
    beyond = Counter(pair.margin for pair in tested if not pair.equivalence_reachable)
    return [
        f"For {number} of {count(sum(pair.margin == margin for pair in tested), 'pair')} the spread over these seeds "
        f"is too large to show equivalence within ±{margin:g} points after Holm's correction, even with equal means."
        for margin, number in beyond.items()
    ]


DIFFERENCE = Column[FamilyComparison]("difference, 95% interval", lambda pair: difference_cell(pair.comparison))
HOLM = Column[FamilyComparison](
    "p (Holm)", lambda pair: Cell(p_value(pair.p_holm) + ("*" if pair.significant else ""), pair.p_holm)
)
EQUIVALENCE = Column[FamilyComparison]("p (equivalence)", lambda pair: pair.p_equivalent, p_value)
TESTS: tuple[Column[FamilyComparison], ...] = (
    DIFFERENCE,
    Column("p", lambda pair: pair.comparison.p, p_value),
    HOLM,
    Column("p (Wilcoxon)", lambda pair: pair.comparison.p_wilcoxon, p_value),
    EQUIVALENCE,
    Column("effect size", lambda pair: pair.comparison.effect_size, lambda value: points(value).replace("inf", "∞")),
)
"""What a table of pairs says of each."""
DETECTABLE = Column[FamilyComparison]("detectable difference", _detectable, points)
ABOUT_DETECTABLE = (
    "Detectable difference: a paired t-test finds it with probability 0.8, at the spread over these seeds and at level "
    f"{LEVEL} over the number of comparisons."
)


def difference_cell(found: PairedComparison | PublishedComparison | None) -> Cell | None:
    """A difference in percentage points with its interval."""
    if found is None:
        return None
    return Cell(with_interval(found.difference, found.low, found.high, signed_points), found.difference)
