"""Several comparisons, corrected for their number."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

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
        equivalence_reachable: whether it would be with equal means, the other comparisons being what they are.
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
    equivalence_reachable: bool = False
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
    check_fraction(alpha, "alpha")
    if not pairs:
        return []

    comparisons = [comparison for _, _, comparison in pairs]
    adjusted = _holm([each.p for each in comparisons])
    found = [
        FamilyComparison(a, b, c, len(pairs), p, p <= alpha, c.p_smallest * len(pairs) <= alpha, margin=margin)
        for (a, b, c), p in zip(pairs, adjusted, strict=True)
    ]
    if margin is None:
        return found

    def passes(p: float, comparison: PairedComparison) -> bool:
        return p < alpha and comparison.n >= FEWEST_JUDGED

    p_seen = [c.p_equivalent(margin) for c in comparisons]
    p_equal = [replace(c, difference=0.0).p_equivalent(margin) for c in comparisons]
    return [
        replace(
            each,
            p_equivalent=p,
            equivalent=passes(p, each.comparison),
            equivalence_reachable=passes(_holm([*p_seen[:i], p_equal[i], *p_seen[i + 1 :]])[i], each.comparison),
        )
        for i, (each, p) in enumerate(zip(found, _holm(p_seen), strict=True))
    ]


def _holm(p: Sequence[float]) -> list[float]:
    """Adjusted p: the k-th smallest of m is tested at α/(m − k + 1), until one fails. NaN stays NaN, as the largest."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(np.take(p, order) * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted.tolist()
