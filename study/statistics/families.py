"""Several comparisons, corrected for their number."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from study.statistics.paired import PairedComparison
from study.statistics.published import FEWEST_JUDGED
from study.statistics.samples import check_fraction


@dataclass(frozen=True)
class FamilyComparison:
    """One comparison of a family of them.

    Attributes:
        a, b: the methods' names.
        comparison: a against b.
        size: number of comparisons in the family.
        p_holm: ``comparison.p`` adjusted for the family.
        significant: ``p_holm`` ≤ α.
        reachable: whether this many seeds can give a significant result in this family at all.
        p_equivalent: p of the equivalence test adjusted for the family; None where it was not asked for, NaN for one
            pair of scores.
        equivalent: ``p_equivalent`` < α, with at least :data:`FEWEST_JUDGED` pairs.
        margin: of equivalence, in the unit of the scores; None for no such test.
    """

    a: str
    b: str
    comparison: PairedComparison
    size: int
    p_holm: float
    significant: bool
    reachable: bool
    p_equivalent: float | None = None
    equivalent: bool = False
    margin: float | None = None


def family_pairs(
    methods: Iterable[str], baselines: Sequence[str] = (), compared: Sequence[str] | None = None
) -> list[tuple[str, str]]:
    """The pairs (a, b) of a family: each other method with each baseline as b, or all pairs without baselines.

    Args:
        methods: all of them.
        baselines: those to compare with.
        compared: those to compare, beside the baselines themselves; None for all.

    Example:
        >>> family_pairs(["none", "ewc", "si"], baselines=["none", "ewc"])
        [('ewc', 'none'), ('si', 'none'), ('si', 'ewc')]
        >>> family_pairs(["none", "ewc", "si"], baselines=["ewc"], compared=["si"])
        [('si', 'ewc')]
    """
    methods = list(methods)
    if not baselines:
        return list(combinations(methods, 2))
    each = [method for method in methods if compared is None or method in compared or method in baselines]
    return [(a, b) for i, b in enumerate(baselines) for a in each if a not in baselines[: i + 1]]


def family(
    pairs: Sequence[tuple[str, str, PairedComparison]], alpha: float = 0.05, margin: float | None = None
) -> list[FamilyComparison]:
    """Comparisons as one family, with the correction of Holm 1979.

    All ``p_holm`` ≤ α together reject with at most probability α of any false rejection, and so do all
    ``p_equivalent``.

    Args:
        pairs: names of the two methods, and their comparison.
        alpha: level of the family, in (0, 1).
        margin: of equivalence, in the unit of the scores; None for no such test.
    """
    from statsmodels.stats.multitest import multipletests  # takes a second, which `clreg-study --help` need not wait

    check_fraction(alpha, "alpha")
    if not pairs:
        return []

    def holm(values: list[float]) -> list[float]:
        return multipletests(values, method="holm")[1].tolist()

    comparisons = [comparison for _, _, comparison in pairs]
    adjusted = holm([each.p for each in comparisons])
    equivalent = [None] * len(pairs) if margin is None else holm([each.p_equivalent(margin) for each in comparisons])
    return [
        FamilyComparison(
            a,
            b,
            c,
            len(pairs),
            p,
            p <= alpha,
            c.p_smallest * len(pairs) <= alpha,
            same,
            same is not None and same < alpha and c.n >= FEWEST_JUDGED,
            margin,
        )
        for (a, b, c), p, same in zip(pairs, adjusted, equivalent, strict=True)
    ]
