"""How many seeds a difference needs."""

import math

from scipy import stats

from study.statistics.samples import check_fraction


def seeds_needed(sd: float, delta: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """How many paired seeds a difference of ``delta`` needs to be found with probability ``power``.

    The number at which the two-sided paired t-test has that power (noncentral t: Cohen 1988, chapter 2), and no
    fewer than those with which the sign-flip test can reach ``alpha`` at all (2/2ⁿ ≤ α: 6 for 0.05).

    Args:
        sd: standard deviation of the differences over seeds, ≥ 0, in the unit of ``delta``.
        delta: the difference of the means to be found, > 0.
        alpha: level of the test, in (0, 1). For one comparison of m under Holm's correction, α/m is on the safe side.
        power: in (alpha, 1).

    Raises:
        ValueError: a value outside these ranges, or ``delta`` below a millionth of ``sd``.

    Example:
        >>> seeds_needed(sd=1.0, delta=0.5), seeds_needed(sd=0.1, delta=5.0)
        (34, 6)
    """
    if not 0 <= sd < math.inf:
        raise ValueError(f"sd must be at least 0 and finite, not {sd}")
    check_fraction(alpha, "alpha")
    if not alpha < power < 1:
        raise ValueError(f"power must be in (alpha, 1) = ({alpha}, 1), not {power}")
    if not 0 < delta < math.inf or delta < 1e-6 * sd:
        raise ValueError(f"delta must be positive, finite and at least a millionth of sd = {sd}, not {delta}")
    too_few = enough = fewest_pairs(alpha)
    if sd == 0:
        return enough
    while _power_of_t(enough, delta / sd, alpha) < power:
        too_few, enough = enough, 2 * enough
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if _power_of_t(middle, delta / sd, alpha) < power:
            too_few = middle
        else:
            enough = middle
    return enough


def fewest_pairs(alpha: float) -> int:
    """The smallest n with 2/2ⁿ ≤ α: from n pairs on the sign-flip test can reach α.

    Example:
        >>> fewest_pairs(0.05), fewest_pairs(0.05 / 36)
        (6, 11)
    """
    return math.ceil(1 - math.log2(alpha))


def _power_of_t(n: int, effect: float, alpha: float) -> float:
    """Power of the two-sided paired t-test with n pairs, where the mean difference is ``effect`` times its sd."""
    df = n - 1
    critical = float(stats.t.isf(alpha / 2, df))
    # t² has the noncentral F distribution, which SciPy computes where its noncentral t gives NaN; sure beyond 1e3
    noncentrality = min(effect * math.sqrt(n), 1e3)
    return float(stats.ncf.sf(critical**2, 1, df, noncentrality**2))
