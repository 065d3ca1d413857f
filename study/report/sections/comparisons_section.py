"""Method against method, and methods over scenarios."""

import math
from collections.abc import Sequence

from study.protocol.settings import Scenario
from study.report.analysis import Analysis
from study.report.comparisons import LEVEL, Ranks
from study.report.document import Block, Cell, Column, Figure, Gallery, Paragraph, Section, Table, section_by_scenario
from study.report.figures.ranks_figure import ranks_figure
from study.report.figures.style import looks
from study.report.number_formats import (
    NOTHING,
    count,
    effect_size,
    enumeration,
    interval,
    points,
    seeds_of,
    signed_points,
)
from study.report.pair_notes import TOO_FEW_SEEDS, pairs_notes, sign_flip_test
from study.report.sections.cells import p_cell
from study.statistics import FamilyComparison, minimal_detectable, seeds_needed

LONGEST_UNFOLDED = 10


def comparisons_section(analysis: Analysis) -> Section | None:
    """Every two methods of each scenario, and the methods' ranks over the scenarios."""
    subsections = [
        _scenario(scenario, pairs, analysis.protocol.seeds) for scenario, pairs in analysis.pairs.items() if pairs
    ]
    if not subsections:
        return None
    if analysis.ranks is not None:
        subsections.append(_ranks(analysis, analysis.ranks))
    return section_by_scenario("comparisons", "Method against method", [Paragraph(_how(analysis))], subsections)


def _how(analysis: Analysis) -> str:
    test = sign_flip_test([pair for pairs in analysis.pairs.values() for pair in pairs])
    return (
        "Average accuracy, paired by seed over the seeds that both finished: the mean difference in percentage points "
        f"with its 95% interval, and the p-value of the {test}, then adjusted "
        "by Holm's method for all comparisons of the scenario; that one decides. Wilcoxon's signed-rank test stands "
        "beside it. Effect size: mean over standard deviation of the differences, bias-corrected. Seeds for 1 point: "
        "how many it takes to find a difference of 1 percentage point with probability 0.8 at the level 0.05 divided "
        "by the number of comparisons, which is on the safe side."
    )


def _scenario(scenario: Scenario, pairs: Sequence[FamilyComparison], asked: int) -> Section:
    columns = (
        Column("methods", "name"),
        Column("finding", "name"),
        Column("difference, 95% interval"),
        Column("seeds"),
        Column("p"),
        Column("p (Holm)"),
        Column("p (Wilcoxon)"),
        Column("effect size"),
        Column("seeds for 1 point"),
    )
    number = count(len(pairs), "comparison")
    table = Table(
        f"pairs-{scenario}",
        f"{scenario.capitalize()}-incremental: differences of average accuracy, in percentage points",
        columns,
        tuple(_row(pair, len(pairs), asked) for pair in pairs),
        tuple(pairs_notes(pairs)),
        f"All {number}" if len(pairs) > LONGEST_UNFOLDED else None,
    )
    heading = f"{scenario.capitalize()}-incremental"
    return Section(f"pairs-{scenario}", heading, (Paragraph(_in_words(pairs)), table))


def _in_words(pairs: Sequence[FamilyComparison]) -> str:
    tested = [pair for pair in pairs if pair.reachable]
    if not tested:
        return f"Too few seeds: none of {count(len(pairs), 'comparison')} could become significant."
    significant = [pair for pair in tested if pair.significant]
    are = "is" if len(significant) == 1 else "are"
    text = f"Of {count(len(pairs), 'comparison')}, {len(significant)} {are} significant after Holm's correction."
    if len(tested) < len(pairs):
        text += f" {len(pairs) - len(tested)} have too few seeds to become so."
    open_ones = [f"`{pair.a}` and `{pair.b}`" for pair in tested if not pair.significant]
    if 0 < len(open_ones) <= 6:
        text += f" Not shown to differ: {'; '.join(open_ones)}."
    return text + _what_could_be_found(tested, len(pairs))


def _what_could_be_found(tested: Sequence[FamilyComparison], family: int) -> str:
    """How large a difference must be for so many seeds to find it."""
    sizes = [minimal_detectable(pair.comparison.sd, pair.comparison.n, LEVEL / family) for pair in tested]
    smallest, largest = points(min(sizes)), points(max(sizes))
    which = smallest if smallest == largest else f"{smallest} to {largest}, depending on the methods,"
    return f" With probability 0.8, so many seeds find a difference of {which} percentage points."


def _row(pair: FamilyComparison, family: int, asked: int) -> tuple[Cell, ...]:
    c = pair.comparison
    bounds = interval(c.low, c.high)
    difference = signed_points(c.difference)
    seeds = None if math.isnan(c.sd) else seeds_needed(c.sd, 1.0, LEVEL / family)
    return (
        Cell(f"{pair.a} − {pair.b}", f"{pair.a} {pair.b}"),
        _finding(pair),
        Cell(difference if bounds == NOTHING else f"{difference} {bounds}", c.difference),
        Cell(seeds_of(c.n, asked), c.n),
        p_cell(c.p),
        p_cell(pair.p_holm),
        p_cell(c.p_wilcoxon),
        Cell(effect_size(c.effect_size), None if math.isnan(c.effect_size) else c.effect_size),
        Cell(NOTHING if seeds is None else str(seeds), seeds),
    )


def _finding(pair: FamilyComparison) -> Cell:
    if not pair.reachable:
        text = f"{TOO_FEW_SEEDS} ({pair.comparison.n})"
        return Cell(text, text)
    if not pair.significant:
        return Cell("no difference shown", "no difference shown")
    text = f"{pair.a if pair.comparison.difference > 0 else pair.b} higher *"
    return Cell(text, text, "significant")


# ------------------------------------------------------------------------------- over scenarios


def _ranks(analysis: Analysis, ranks: Ranks) -> Section:
    critical_difference = points(ranks.result.critical_difference)
    where = f"{len(ranks.blocks)} scenarios of this one benchmark ({enumeration(ranks.blocks)})"
    text = (
        f"Methods ranked by mean average accuracy over the {where}, which are no independent benchmarks: read it as a "
        f"description. {ranks.tests_in_words} Nemenyi's critical difference of average ranks is {critical_difference}"
    )
    if not ranks.can_differ:
        text += (
            f", more than the {len(ranks.methods) - 1} that ranks of {len(ranks.methods)} methods can differ by: so "
            f"few scenarios cannot tell methods apart by rank. {ranks.in_words}"
        )
        return Section("ranks", "Over the scenarios", (Paragraph(text),))
    caption = (
        f"Average ranks over {where}. Bars join methods whose ranks do not differ by the critical difference "
        f"({critical_difference})."
    )
    svg = ranks_figure("ranks", ranks.in_words, ranks, looks(analysis.protocol.methods))
    blocks: tuple[Block, ...] = (Paragraph(f"{text}."), Gallery((Figure("ranks", caption, ranks.in_words, svg),)))
    return Section("ranks", "Over the scenarios", blocks)
