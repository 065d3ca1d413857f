"""How large a difference must be for a number of seeds to find it."""

import math

from scipy import optimize, stats


def detectable_difference(sd: float, n: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The mean difference that ``n`` paired seeds find with probability ``power``; larger ones are found more often.

    That at which the two-sided paired t-test has this power (Cohen 1988, chapter 2); infinite where the sign-flip test
    cannot reach ``alpha`` with so few seeds. ``k`` times as many seeds find differences of about 1/√k the size.

    Args:
        sd: standard deviation of the differences over seeds.
        n: number of seeds.
        alpha: level of the test. For one comparison of m under Holm's correction, α/m is on the safe side.
        power: in (alpha, 1).

    Example:
        >>> round(detectable_difference(sd=1.0, n=34), 2), detectable_difference(sd=1.0, n=5)
        (0.5, inf)
    """
    if n < fewest_pairs(alpha):
        return math.inf
    critical = stats.t.isf(alpha / 2, n - 1) ** 2

    def missing(noncentrality: float) -> float:
        # t² has the noncentral F distribution, which SciPy computes where its noncentral t gives NaN
        return float(stats.ncf.sf(critical, 1, n - 1, noncentrality**2)) - power

    return sd / math.sqrt(n) * float(optimize.brentq(missing, 0.0, 1e3))


def fewest_pairs(alpha: float) -> int:
    """The smallest n with 2/2ⁿ ≤ α: from n pairs on the sign-flip test can reach α.

    Example:
        >>> fewest_pairs(0.05), fewest_pairs(0.05 / 36)
        (6, 11)
    """
    return math.ceil(1 - math.log2(alpha))
