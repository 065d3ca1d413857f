"""Methods compared in pairs."""

import math
from collections.abc import Sequence

from study.protocol.settings import Scenario
from study.report.analysis import Analysis
from study.report.comparisons import LEVEL, TOO_FEW_SEEDS, pairs_notes, sign_flip_test
from study.report.document import Cell, Column, Paragraph, Section, Table, number, table_of, word
from study.report.number_formats import count, effect_size, enumeration, p_value, seeds_of, signed_points, with_bounds
from study.statistics import FamilyComparison, seeds_needed

NamedPair = tuple[Scenario, FamilyComparison]


def pairs_section(analysis: Analysis) -> Section | None:
    tables = [_table(scenario, pairs, analysis.protocol.seeds) for scenario, pairs in analysis.pairs.items() if pairs]
    if not tables:
        return None
    test = sign_flip_test([pair for pairs in analysis.pairs.values() for pair in pairs])
    how = Paragraph(
        "Differences of average accuracy in percentage points, paired by the seeds that both methods finished, with "
        f"95% intervals. p: {test}; p (Holm), over {_family(analysis)}, decides. Effect size: mean over standard "
        "deviation of the differences, bias-corrected. Seeds for 1 point: seeds that find a difference of 1 point with "
        f"probability 0.8 at level {LEVEL} over the number of pairs."
    )
    return Section("pairs", "Method against method", (how, *tables))


def _family(analysis: Analysis) -> str:
    named = analysis.protocol.comparisons
    if named is None:
        return "all pairs of the scenario"
    baselines = enumeration(f"`{method}`" for method in named.baselines)
    return f"the comparisons with {baselines} that the protocol names for a scenario"


def _table(scenario: Scenario, pairs: Sequence[FamilyComparison], asked: int) -> Table:
    def seeds_for_a_point(pair: FamilyComparison) -> int | None:
        sd = pair.comparison.sd
        return None if math.isnan(sd) else seeds_needed(sd, 1.0, LEVEL / len(pairs))

    return table_of(
        f"pairs-{scenario}",
        f"{scenario.capitalize()}-incremental: differences of average accuracy, in percentage points",
        pairs,
        *DIFFERENCES,
        Column("seeds", lambda pair: number(pair.comparison.n, lambda n: seeds_of(n, asked))),
        Column("p", lambda pair: number(pair.comparison.p, p_value)),
        HOLM,
        Column("p (Wilcoxon)", lambda pair: number(pair.comparison.p_wilcoxon, p_value)),
        Column("effect size", lambda pair: number(pair.comparison.effect_size, effect_size)),
        Column("seeds for 1 point", lambda pair: number(seeds_for_a_point(pair))),
        notes=pairs_notes(pairs),
    )


def differing_table(analysis: Analysis, most: int) -> Table | None:
    """The pairs of most interest and smallest p, in at most so many rows; None without pairs."""
    pairs = sorted(_of_interest(analysis), key=lambda named: (named[1].p_holm, -abs(named[1].comparison.difference)))
    if not pairs:
        return None
    several = len({scenario for scenario, _ in pairs}) > 1
    scenarios = {id(pair): scenario if several else "" for scenario, pair in pairs}
    more = len(pairs) - most
    return table_of(
        "verdicts",
        "Method against method: differences of average accuracy, in percentage points",
        [pair for _, pair in pairs[:most]],
        DIFFERENCES[0],
        Column("scenario", lambda pair: word(scenarios[id(pair)]), "name"),
        *DIFFERENCES[1:],
        HOLM,
        notes=[f"{count(more, 'further pair')} below."] if more > 0 else [],
    )


def _of_interest(analysis: Analysis) -> list[NamedPair]:
    """Those that the protocol names, or else variants of one method, or each method against none, or all."""
    kinds = {name: method.kind for name, method in analysis.protocol.methods.items()}
    pairs = [(scenario, pair) for scenario, found in analysis.pairs.items() for pair in found]
    if analysis.protocol.comparisons is not None:
        return pairs
    variants = [named for named in pairs if kinds[named[1].a] == kinds[named[1].b]]
    with_none = [named for named in pairs if "naive" in (kinds[named[1].a], kinds[named[1].b])]
    return variants or with_none or pairs


def _finding(pair: FamilyComparison) -> Cell:
    if not pair.reachable:
        return word(f"{TOO_FEW_SEEDS} ({pair.comparison.n})")
    if not pair.significant:
        return word("no difference shown")
    return word(f"{pair.a if pair.comparison.difference > 0 else pair.b} higher *", "significant")


def difference_cell(pair: FamilyComparison) -> Cell:
    c = pair.comparison
    return number(c.difference, lambda value: with_bounds(signed_points(value), c.low, c.high))


DIFFERENCES: tuple[Column[FamilyComparison], ...] = (
    Column("methods", lambda pair: Cell(f"{pair.a} − {pair.b}", f"{pair.a} {pair.b}"), "name"),
    Column("finding", _finding, "name"),
    Column("difference, 95% interval", difference_cell),
)
HOLM = Column[FamilyComparison]("p (Holm)", lambda pair: number(pair.p_holm, p_value))
