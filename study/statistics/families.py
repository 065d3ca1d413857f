"""Several comparisons, corrected for their number."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from study.statistics.paired import PairedComparison
from study.statistics.samples import check_fraction


@dataclass(frozen=True)
class FamilyComparison:
    """One comparison of a family of them.

    Attributes:
        a, b: the methods' names.
        comparison: a against b.
        p_holm: ``comparison.p`` adjusted for the family.
        significant: ``p_holm`` ≤ α.
        reachable: whether this many seeds can give a significant result in this family at all.
    """

    a: str
    b: str
    comparison: PairedComparison
    p_holm: float
    significant: bool
    reachable: bool


def family_pairs(methods: Iterable[str], baselines: Sequence[str] = ()) -> list[tuple[str, str]]:
    """The pairs (a, b) of a family: each other method with each baseline as b, or all pairs without baselines.

    Example:
        >>> family_pairs(["none", "ewc", "si"], baselines=["none", "ewc"])
        [('ewc', 'none'), ('si', 'none'), ('si', 'ewc')]
    """
    methods = list(methods)
    if not baselines:
        return list(combinations(methods, 2))
    return [(a, b) for i, b in enumerate(baselines) for a in methods if a not in baselines[: i + 1]]


def family(pairs: Sequence[tuple[str, str, PairedComparison]], alpha: float = 0.05) -> list[FamilyComparison]:
    """Comparisons as one family, with the correction of Holm 1979.

    All ``p_holm`` ≤ α together reject with at most probability α of any false rejection.

    Args:
        pairs: names of the two methods, and their comparison.
        alpha: level of the family, in (0, 1).
    """
    from statsmodels.stats.multitest import multipletests  # takes a second, which `clreg-study --help` need not wait

    check_fraction(alpha, "alpha")
    if not pairs:
        return []
    adjusted = multipletests([comparison.p for _, _, comparison in pairs], method="holm")[1]
    return [
        FamilyComparison(a, b, c, float(p), bool(p <= alpha), c.p_smallest * len(pairs) <= alpha)
        for (a, b, c), p in zip(pairs, adjusted, strict=True)
    ]
