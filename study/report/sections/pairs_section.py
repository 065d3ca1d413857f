"""Methods compared in pairs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from study.protocol.settings import Scenario
from study.protocol.table import Own
from study.report.analysis import Analysis
from study.report.comparisons import (
    ABOUT_DETECTABLE,
    DETECTABLE,
    DIFFERENCE,
    EQUIVALENCE,
    HOLM,
    LEVEL,
    TESTS,
    equivalence_notes,
    pairs_notes,
    sign_flip_test,
)
from study.report.document import Cell, Column, Section, Table, table_of
from study.report.number_formats import count, enumeration, points, seeds_of
from study.statistics import FamilyComparison, family_pairs


def pairs_section(analysis: Analysis) -> Section | None:
    tables = [_table(analysis, scenario) for scenario, pairs in analysis.pairs.items() if pairs]
    if not tables:
        return None
    test = sign_flip_test(analysis.every_pair)
    how = (
        "Differences of average accuracy in percentage points, paired by the seeds that both methods finished, with "
        f"95% intervals, each of its comparison alone. p: {test}; p (Holm), over {_family(analysis)}, decides. "
        "Effect size: mean over standard deviation of the differences, bias-corrected. "
        f"{ABOUT_DETECTABLE}{_equivalence(analysis)}"
    )
    return Section("pairs", "Method against method", (how, *tables))


def _family(analysis: Analysis) -> str:
    families = analysis.protocol.families
    if not families:
        return "all pairs of the scenario"
    if len(families) == 1:
        return f"the comparisons with {_quoted(families[0].baselines)} that the protocol names for a scenario"
    named = "; ".join(
        f"{_quoted(family.methods) if family.methods else 'every method'} with {_quoted(family.baselines)}"
        for family in families
    )
    return f"each family of comparisons that the protocol names for a scenario ({named})"


def _quoted(methods: Sequence[str]) -> str:
    return enumeration(f"`{method}`" for method in methods)


def _equivalence(analysis: Analysis) -> str:
    margins = sorted({family.margin for family in analysis.protocol.families if family.margin is not None})
    if not margins:
        return ""
    named = enumeration(f"±{margin:g}" for margin in margins)
    return (
        f" p (equivalence): paired equivalence test (TOST) against {named} points, which the protocol names, "
        "after Holm's correction. Smallest margin: every larger one would pass, before the correction."
    )


def _table(analysis: Analysis, scenario: Scenario) -> Table:
    pairs = analysis.pairs[scenario]
    return table_of(
        f"pairs-{scenario}",
        f"{scenario.capitalize()}-incremental: differences of average accuracy, in percentage points",
        pairs,
        METHODS,
        FINDING,
        Column("seeds", lambda pair: pair.comparison.n, lambda n: seeds_of(n, analysis.protocol.seeds)),
        *TESTS,
        Column(
            "smallest margin",
            lambda pair: None if pair.p_equivalent is None else pair.comparison.smallest_margin(LEVEL),
            points,
        ),
        DETECTABLE,
        notes=[*pairs_notes(pairs), *equivalence_notes(pairs)],
    )


def leading_pairs(analysis: Analysis, most: int) -> Table | None:
    """The pairs of most interest and smallest p, in at most ``most`` rows; None without pairs."""
    scenarios = {id(pair): scenario for scenario, pairs in analysis.pairs.items() for pair in pairs}
    pairs = _of_interest(analysis)
    if not pairs:
        return None
    several = len(analysis.pairs) > 1
    shown = pairs[:most]
    more = len(analysis.every_pair) - len(shown)
    further = [f"{count(more, 'further pair')} below."] if more > 0 else []
    compared = {name for pair in analysis.every_pair for name in (pair.a, pair.b)}
    finished = {result.method for result in analysis.results if result.finished}
    beside = [f"`{name}`" for name in analysis.protocol.methods if name in finished - compared]
    untested = [f"Shown without a test: {enumeration(beside)}."] if beside else []
    table = table_of(
        "leading-pairs",
        "Method against method: differences of average accuracy, in percentage points",
        shown,
        METHODS,
        Column("scenario", lambda pair: scenarios[id(pair)] if several else ""),
        FINDING,
        DIFFERENCE,
        HOLM,
        EQUIVALENCE,
        DETECTABLE,
    )
    how = _how_tested(analysis, shown, table.headings)
    return replace(
        table, notes=(*further, *pairs_notes(shown), how, *equivalence_notes(analysis.every_pair), *untested)
    )


def _how_tested(analysis: Analysis, pairs: Sequence[FamilyComparison], headings: Sequence[str]) -> str:
    """What the columns with these headings are."""
    test, beyond = f"p (Holm): {sign_flip_test(pairs)}", ""
    if EQUIVALENCE.heading in headings:
        test += "; p (equivalence): paired equivalence test (TOST)"
        beyond = ", or reach beyond the margin where equivalence is"
    family = "each family that the protocol names" if analysis.protocol.families else "all pairs"
    said = [
        f"{test}; corrected over {family}, in each scenario.",
        f"Intervals are not corrected: they may exclude 0 where no difference is shown{beyond}.",
    ]
    if analysis.selection.choices:
        said.append("None of these includes the uncertainty of choosing λ.")
    if DETECTABLE.heading in headings:
        said.append(ABOUT_DETECTABLE)
    return " ".join(said)


def _of_interest(analysis: Analysis) -> list[FamilyComparison]:
    """By p, the pairs of the protocol's families, or else those of the most interesting kind.

    Families and their baselines take turns, so that the pairs of one hide no other's. Without families, the user's own
    methods come first, then each method against none, then variants of one method. Without such methods it is the
    variants, or each method against none, or all pairs.
    """
    methods = analysis.protocol.methods
    kinds = {name: method.kind for name, method in methods.items()}
    pairs = sorted(analysis.every_pair, key=lambda pair: (pair.p_holm, -abs(pair.comparison.difference)))
    if analysis.protocol.families:
        named = [family_pairs(methods, each.baselines, each.methods) for each in analysis.protocol.families]
        turns: Counter[tuple[int, str]] = Counter()
        turn = {}
        for pair in pairs:
            whose = next(index for index, of in enumerate(named) if (pair.a, pair.b) in of), pair.b
            turns[whose] += 1
            turn[id(pair)] = turns[whose]
        return sorted(pairs, key=lambda pair: turn[id(pair)])
    own = [pair for pair in pairs if isinstance(methods[pair.a], Own) or isinstance(methods[pair.b], Own)]
    variants = [pair for pair in pairs if kinds[pair.a] == kinds[pair.b]]
    with_none = [pair for pair in pairs if "naive" in (kinds[pair.a], kinds[pair.b])]
    if own:
        return list({id(pair): pair for pair in own + with_none + variants}.values())
    return variants or with_none or pairs


def _finding(pair: FamilyComparison) -> Cell | str:
    """What the tests say of a pair."""
    within = f"within ±{pair.margin:g}" if pair.equivalent else ""
    if pair.significant:
        higher = f"{pair.a if pair.comparison.difference > 0 else pair.b} higher"
        return Cell(f"{higher}, {within}" if within else higher, higher, "significant")
    if within:
        return f"equivalent, {within}"
    return "no difference shown" if pair.reachable else f"too few seeds ({pair.comparison.n})"


FINDING = Column[FamilyComparison]("finding", _finding)
METHODS = Column[FamilyComparison]("methods", lambda pair: f"{pair.a} − {pair.b}")
