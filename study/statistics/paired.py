"""Two methods paired by seed."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from study.statistics.samples import ROUNDING, in_errors, merge_ties, resamples_at_a_time, vector
from study.statistics.summary import Interval, Summary, summarize

EXACT_UP_TO = 40
"""Pairs up to which the sign-flip test counts every flip, from at most 2²⁰ sums of each half of them."""

RESAMPLES = 99_999
"""Sign flips drawn for more pairs than that."""


@dataclass(frozen=True)
class PairedComparison:
    """Two methods over the same n seeds: a against b.

    Attributes:
        n: number of pairs.
        mean_a, mean_b: of each method.
        difference: mean of a − b.
        low, high, interval: its confidence interval, as in :class:`Summary`.
        p: of the two-sided sign-flip permutation test; exact up to :data:`EXACT_UP_TO` pairs.
        p_wilcoxon: of Wilcoxon's signed-rank test (1945); exact up to :data:`EXACT_UP_TO` pairs.
        p_smallest: the smallest ``p`` that n pairs can give: 2/2ⁿ where the test is exact, and else one draw's share.
        effect_size: d_z, mean over standard deviation of the differences, with the exact correction of Hedges 1981.
            0 if all differences are 0, ±inf if all are equal otherwise; NaN where no unbiased one exists (n ≤ 2).
        sd: standard deviation of the differences (n − 1); NaN for one pair.
    """

    n: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    interval: Interval
    p: float
    p_wilcoxon: float
    p_smallest: float
    effect_size: float
    sd: float

    def p_equivalent(self, margin: float) -> float:
        """p of the paired equivalence test (TOST: Schuirmann 1987): small if the difference lies within ±margin.

        NaN for one pair.
        """
        beyond = in_errors(margin - abs(self.difference), self.sd / math.sqrt(self.n))
        return float(stats.t.sf(beyond, self.n - 1))

    def smallest_margin(self, alpha: float) -> float:
        """Beyond it every margin passes the equivalence test at level ``alpha``; NaN for one pair."""
        return abs(self.difference) + float(stats.t.isf(alpha, self.n - 1)) * self.sd / math.sqrt(self.n)


def compare_paired(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> PairedComparison:
    """Whether a and b differ, from scores paired by seed.

    The test flips the signs of the differences in all 2ⁿ ways (Fisher 1935, chapter III), for more than
    :data:`EXACT_UP_TO` pairs in 99,999 drawn ones (Phipson and Smyth 2010), and counts the mean differences at least as
    far from 0 as the one seen. Scores that differ by rounding alone count as equal, in all tests.

    Args:
        a, b: shape (n,), n ≥ 1, one score per seed, in one unit.
        confidence: of the interval, which is that of :func:`summarize` over a − b.

    Raises:
        ValueError: shapes differ or are no vectors, NaN or infinity among the scores, ``confidence`` outside (0, 1).

    Example:
        >>> ewc, naive = [0.81, 0.84, 0.80, 0.83], [0.75, 0.80, 0.78, 0.76]
        >>> comparison = compare_paired(ewc, naive)
        >>> round(comparison.difference, 4), comparison.p, comparison.p_smallest
        (0.0475, 0.125, 0.125)
    """
    a, b = vector(a, "a"), vector(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"a and b are paired by seed and need as many entries each, not {a.size} and {b.size}")
    tolerance = ROUNDING * max(np.abs(a).max(), np.abs(b).max())
    d = _differences(a, b, tolerance)
    mean = summarize(d, confidence)
    return PairedComparison(
        n=d.size,
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        difference=mean.mean,
        low=mean.low,
        high=mean.high,
        interval=mean.interval,
        p=_sign_flip_p(d, tolerance),
        p_wilcoxon=_wilcoxon_p(d),
        p_smallest=2 / 2**d.size if d.size <= EXACT_UP_TO else 1 / (RESAMPLES + 1),
        effect_size=_hedges_d_z(mean),
        sd=mean.sd,
    )


def _differences(a: NDArray[np.float64], b: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """a − b, with ties and zeros merged up to rounding."""
    d = a - b
    sizes = merge_ties(np.append(np.abs(d), 0.0), tolerance)[:-1]
    return np.copysign(sizes, d) + 0.0  # −0 becomes 0


def _sign_flip_p(d: NDArray[np.float64], tolerance: float) -> float:
    if d.size > EXACT_UP_TO:
        return _drawn_p(d, tolerance)
    as_far = abs(d.sum()) - d.size * tolerance
    if as_far <= 0:
        return 1.0
    # SciPy would form all 2ⁿ sums one by one; each is a sum of the first half plus one of the second
    first, second = (np.sort(_signed_sums(half)) for half in np.array_split(d, 2))
    at_least = int(np.sum(second.size - np.searchsorted(second, as_far - first)))
    return 2 * at_least / 2**d.size  # with every sum there is its negative


def _signed_sums(d: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 2ⁿ sums ±d₁ ± … ± dₙ."""
    sums = np.zeros(1)
    for each in d:
        sums = np.concatenate([sums + each, sums - each])
    return sums


def _drawn_p(d: NDArray[np.float64], tolerance: float) -> float:
    found = stats.permutation_test(
        (d,),
        np.mean,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=min(10_000, resamples_at_a_time(d.size)),
        random_state=np.random.default_rng(0),
    )
    # SciPy's own p allows for a rounding error relative to the mean seen, which is too little where terms cancel
    as_far = int(np.count_nonzero(np.abs(found.null_distribution) >= abs(found.statistic) - tolerance))
    return (as_far + 1) / (RESAMPLES + 1)


def _wilcoxon_p(d: NDArray[np.float64]) -> float:
    """Differences of 0 are dropped, as Wilcoxon did."""
    d = d[d != 0]
    if d.size == 0:
        return 1.0
    sizes = np.abs(d)
    if np.unique(sizes).size == d.size:
        return float(stats.wilcoxon(d).pvalue)
    # SciPy's answer to ties depends on its version (a normal approximation, or exact but slow); flipping the signs
    # of the ranks is the exact test
    return _sign_flip_p(np.sign(d) * stats.rankdata(sizes), tolerance=ROUNDING * d.size)


def _hedges_d_z(differences: Summary) -> float:
    if differences.n == 1:
        return math.nan
    if differences.sd == 0:
        return math.copysign(math.inf, differences.mean) if differences.mean else 0.0
    if differences.n == 2:  # Student's t with one degree of freedom has no mean, so there is no bias to correct
        return math.nan
    df = differences.n - 1
    correction = math.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / math.sqrt(df / 2)
    return correction * differences.mean / differences.sd
