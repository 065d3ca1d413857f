"""Several methods over several benchmarks, compared by their ranks."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from study.statistics.samples import ROUNDING, check_finite, check_fraction, merge_ties


@dataclass(frozen=True)
class FriedmanResult:
    """Whether k methods differ over N benchmarks, and which the benchmarks cannot tell apart.

    Attributes:
        chi2, p: Friedman's test, corrected for ties.
        f, p_f: Iman and Davenport's, less conservative. Where all benchmarks rank alike ``f`` is infinite, and ``p_f``
            is the exact probability of that.
        average_ranks: one for each method, 1 = best.
        critical_difference: Nemenyi's: average ranks that differ by at least this much differ significantly.
        groups: the largest sets of methods none of which differ significantly: indices of methods, best first.
    """

    chi2: float
    p: float
    f: float
    p_f: float
    average_ranks: tuple[float, ...]
    critical_difference: float
    groups: tuple[tuple[int, ...], ...]


def friedman(scores: ArrayLike, alpha: float = 0.05) -> FriedmanResult:
    """Friedman's test, with Iman and Davenport's correction and Nemenyi's critical difference (Demšar 2006, 3.2.2).

    Args:
        scores: shape (N, k): N ≥ 2 benchmarks, k ≥ 3 methods, the highest score the best. Scores of one benchmark
            that differ by rounding alone share their rank.
        alpha: level of the critical difference, in (0, 1).

    Raises:
        ValueError: another shape, NaN or infinity among the scores, ``alpha`` outside (0, 1).

    Example:
        >>> result = friedman([[9, 8, 7], [6, 5, 4], [8, 9, 4], [7, 6, 5], [9, 8, 7], [5, 4, 3]])
        >>> [round(rank, 2) for rank in result.average_ranks], round(result.critical_difference, 2), result.groups
        ([1.17, 1.83, 3.0], 1.35, ((0, 1), (1, 2)))
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < 3:
        raise ValueError(f"scores need the shape (2 or more benchmarks, 3 or more methods), not {table.shape}")
    check_finite(table, "scores")
    check_fraction(alpha, "alpha")
    table = np.array([merge_ties(row, ROUNDING * np.abs(row).max()) for row in table])
    ranks = stats.rankdata(-table, axis=1)
    n, k = ranks.shape
    average = ranks.mean(axis=0)
    critical = float(stats.studentized_range.ppf(1 - alpha, k, np.inf)) / math.sqrt(2) * math.sqrt(k * (k + 1) / 6 / n)
    return FriedmanResult(*_tests(table, ranks), tuple(average.tolist()), critical, _groups(average, critical))


def _tests(table: NDArray[np.float64], ranks: NDArray[np.float64]) -> tuple[float, float, float, float]:
    n, k = ranks.shape
    if np.all(ranks == (k + 1) / 2):  # everything tied: nothing to compare, 0/0 in both statistics
        return 0.0, 1.0, 0.0, 1.0
    chi2, p = map(float, stats.friedmanchisquare(*table.T))
    if np.all(ranks == ranks[0]):
        sizes = np.unique(ranks[0], return_counts=True)[1]
        rankings = math.factorial(k) // math.prod(math.factorial(size) for size in sizes.tolist())
        return chi2, p, math.inf, float(rankings) ** (1 - n)
    f = (n - 1) * chi2 / (n * (k - 1) - chi2)
    return chi2, p, f, float(stats.f.sf(f, k - 1, (k - 1) * (n - 1)))


def _groups(average_ranks: NDArray[np.float64], critical: float) -> tuple[tuple[int, ...], ...]:
    order = np.argsort(average_ranks, kind="stable")
    ascending = average_ranks[order]
    ends = np.searchsorted(ascending, ascending + critical)  # the first that differs significantly from each
    starts = np.flatnonzero(np.diff(ends, prepend=0))  # a later start with the same end is part of the earlier group
    return tuple(tuple(order[start : ends[start]].tolist()) for start in starts if ends[start] - start > 1)
