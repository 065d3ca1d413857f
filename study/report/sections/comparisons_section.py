"""Methods compared in pairs, and by rank over scenarios."""

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
from study.statistics import FamilyComparison, seeds_needed

LONGEST_UNFOLDED = 10


def comparisons_section(analysis: Analysis) -> Section | None:
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
        "Differences of average accuracy in percentage points, paired by the seeds that both methods finished, with "
        f"95% intervals. p: {test}; p (Holm), over {_family(analysis)}, decides. Effect size: mean over standard "
        "deviation of the differences, bias-corrected. Seeds for 1 point: seeds that find a difference of 1 point with "
        f"probability 0.8 at level {LEVEL} over the number of pairs."
    )


def _family(analysis: Analysis) -> str:
    named = analysis.protocol.comparisons
    if named is None:
        return "all pairs of the scenario"
    baselines = enumeration(f"`{method}`" for method in named.baselines)
    return f"the comparisons with {baselines} that the protocol names for a scenario"


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
    return Section(f"pairs-{scenario}", heading, (table,))


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
    text = (
        f"Methods ranked by mean average accuracy in {len(ranks.blocks)} scenarios of one benchmark "
        f"({enumeration(ranks.blocks)}), which are not independent: a description, not a test. {ranks.friedman} "
        f"Nemenyi's critical difference of average ranks: {points(ranks.result.critical_difference)}"
    )
    if not ranks.can_differ:
        text += f", more than {len(ranks.methods)} methods can differ by. {ranks.averages}"
        return Section("ranks", "Ranks over scenarios", (Paragraph(text),))
    caption = "Average ranks over the scenarios. Bars join methods whose ranks differ by less than the critical value."
    svg = ranks_figure("ranks", ranks.averages, ranks, looks(analysis.protocol.methods))
    blocks: tuple[Block, ...] = (Paragraph(f"{text}."), Gallery((Figure("ranks", caption, ranks.averages, svg),)))
    return Section("ranks", "Ranks over scenarios", blocks)
