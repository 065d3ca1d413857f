"""How many seeds a difference needs."""

import math
from bisect import bisect_left

from scipy import stats


def seeds_needed(sd: float, delta: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """How many paired seeds a difference of ``delta`` needs to be found with probability ``power``.

    The number at which the two-sided paired t-test has that power (Cohen 1988, chapter 2), and no fewer than those
    with which the sign-flip test can reach ``alpha`` at all.

    Args:
        sd, delta: standard deviation of the differences over seeds, and the mean difference to be found, > 0.
        alpha: level of the test. For one comparison of m under Holm's correction, α/m is on the safe side.
        power: in (alpha, 1).

    Example:
        >>> seeds_needed(sd=1.0, delta=0.5), seeds_needed(sd=0.1, delta=5.0)
        (34, 6)
    """

    def power_of_t(n: int) -> float:
        # t² has the noncentral F distribution, which SciPy computes where its noncentral t gives NaN; sure beyond 1e3
        noncentrality = min(delta / sd * math.sqrt(n), 1e3)
        return float(stats.ncf.sf(stats.t.isf(alpha / 2, n - 1) ** 2, 1, n - 1, noncentrality**2))

    fewest = most = fewest_pairs(alpha)
    if sd == 0:
        return fewest
    while power_of_t(most) < power:
        most *= 2
    return fewest + bisect_left(range(fewest, most), power, key=power_of_t)


def fewest_pairs(alpha: float) -> int:
    """The smallest n with 2/2ⁿ ≤ α: from n pairs on the sign-flip test can reach α.

    Example:
        >>> fewest_pairs(0.05), fewest_pairs(0.05 / 36)
        (6, 11)
    """
    return math.ceil(1 - math.log2(alpha))
