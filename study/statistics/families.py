"""Several comparisons, corrected for their number."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.statistics.paired import PairedComparison
from study.statistics.samples import check_fraction


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """p-values adjusted for a family of tests: all ≤ α reject with at most probability α of any false rejection.

    Holm 1979: the i-th smallest of m is multiplied by m − i + 1, and is no smaller than the one before.

    Args:
        p_values: shape (m,), in [0, 1]. A NaN stands for what could not be tested: it stays and does not count in m.

    Returns:
        Adjusted p-values, in the given order, shape (m,).

    Raises:
        ValueError: another shape, or values outside [0, 1].

    Example:
        >>> holm([0.01, 0.04, 0.03, 0.005]).round(3).tolist()
        [0.03, 0.06, 0.06, 0.02]
    """
    from statsmodels.stats.multitest import multipletests  # takes a second, which `clreg-study --help` need not wait

    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1:
        raise ValueError(f"p_values must be a vector, not of shape {p.shape}")
    if np.any((p < 0) | (p > 1)):
        raise ValueError(f"p_values must be in [0, 1], not {p[(p < 0) | (p > 1)][0]}")
    adjusted, tested = p.copy(), ~np.isnan(p)
    if tested.any():
        adjusted[tested] = multipletests(p[tested], method="holm")[1]
    return adjusted


@dataclass(frozen=True)
class FamilyComparison:
    """One comparison of a family of them.

    Attributes:
        a, b: the methods' names.
        comparison: a against b.
        p_holm: ``comparison.p`` adjusted for the family.
        significant: ``p_holm`` ≤ α.
        reachable: whether so many seeds can give a significant result in this family at all.
    """

    a: str
    b: str
    comparison: PairedComparison
    p_holm: float
    significant: bool
    reachable: bool


def family_pairs(methods: Iterable[str], baselines: Sequence[str] = ()) -> list[tuple[str, str]]:
    """The pairs (a, b) of a family, each pair of methods at most once.

    Args:
        methods: their names.
        baselines: each other method is compared with each of these, as b. Empty: all pairs, in the order of
            ``methods``.

    Example:
        >>> family_pairs(["none", "ewc", "si"], baselines=["none", "ewc"])
        [('ewc', 'none'), ('si', 'none'), ('si', 'ewc')]
    """
    methods = list(methods)
    if not baselines:
        return list(combinations(methods, 2))
    return [(a, b) for i, b in enumerate(baselines) for a in methods if a not in baselines[: i + 1]]


def family(pairs: Sequence[tuple[str, str, PairedComparison]], alpha: float = 0.05) -> list[FamilyComparison]:
    """Comparisons as one family, with Holm's correction.

    Args:
        pairs: names of the two methods, and their comparison.
        alpha: level of the family, in (0, 1).
    """
    check_fraction(alpha, "alpha")
    adjusted = holm([comparison.p for _, _, comparison in pairs])
    return [
        FamilyComparison(a, b, c, float(p), bool(p <= alpha), c.p_smallest * len(pairs) <= alpha)
        for (a, b, c), p in zip(pairs, adjusted, strict=True)
    ]
