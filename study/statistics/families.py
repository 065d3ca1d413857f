"""Families of comparisons, corrected for multiple comparisons."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.statistics.paired import PairedComparison, compare_paired
from study.statistics.samples import check_fraction, vector


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
        comparison: a against b, its interval at confidence 1 − α.
        p_holm: ``comparison.p`` adjusted for the family.
        significant: ``p_holm`` ≤ α.
        reachable: whether so many seeds can give a significant result in this family at all; where not, there are
            too few seeds, and that nothing is significant says nothing of the methods.
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


def compare_family(
    scores: Mapping[str, ArrayLike], baselines: Sequence[str] = (), alpha: float = 0.05
) -> list[FamilyComparison]:
    """Which methods differ, with Holm's correction over the family.

    Args:
        scores: for each method a vector of shape (n,), one score a seed, the seeds in the same order in all.
        baselines: which pairs: see :func:`family_pairs`.
        alpha: the level of the family, in (0, 1).

    Raises:
        ValueError: fewer than two methods, an unknown baseline, vectors of unequal length, or what
            :func:`compare_paired` refuses.

    Example:
        >>> seeds = {"naive": [0.4, 0.5, 0.3], "ewc": [0.7, 0.7, 0.6]}
        >>> [only] = compare_family(seeds, baselines=["naive"])
        >>> only.a, only.b, only.p_holm, only.significant, only.reachable
        ('ewc', 'naive', 0.25, False, False)
    """
    check_fraction(alpha, "alpha")
    if len(scores) < 2:
        raise ValueError(f"a comparison needs at least two methods, not {list(scores)}")
    for baseline in baselines:
        if baseline not in scores:
            raise ValueError(f"a baseline must be one of {list(scores)}, not {baseline!r}")
    vectors = {name: vector(values, f"scores of {name!r}") for name, values in scores.items()}
    if len({vector.size for vector in vectors.values()}) > 1:
        sizes = {name: vector.size for name, vector in vectors.items()}
        raise ValueError(f"scores are paired by seed and need as many entries for each method, not {sizes}")
    pairs = family_pairs(vectors, baselines)
    return family([(a, b, compare_paired(vectors[a], vectors[b], 1 - alpha)) for a, b in pairs], alpha)


def family(pairs: Sequence[tuple[str, str, PairedComparison]], alpha: float = 0.05) -> list[FamilyComparison]:
    """Comparisons made by themselves, as where not all pairs have the same seeds, as one family.

    Args:
        pairs: the names of what was compared, and the comparison.
        alpha: the level of the family, in (0, 1).
    """
    check_fraction(alpha, "alpha")
    adjusted = holm([comparison.p for _, _, comparison in pairs])
    return [
        FamilyComparison(a, b, c, float(p), bool(p <= alpha), c.p_smallest * len(pairs) <= alpha)
        for (a, b, c), p in zip(pairs, adjusted, strict=True)
    ]
