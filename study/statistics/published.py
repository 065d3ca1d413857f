"""Our samples against a published number."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

from numpy.typing import ArrayLike
from scipy import optimize, stats

from study.statistics.samples import ROUNDING, check_fraction, in_errors
from study.statistics.summary import Summary, summarize

Verdict = Literal["reproduced", "above", "below", "inconclusive", "not testable"]

FEWEST_JUDGED = 3
"""Samples from which on a verdict is given: with 2, Welch's test can reject a true null in 12% of cases, not 5%."""


@dataclass(frozen=True)
class PublishedComparison:
    """Our samples against a published mean.

    Attributes:
        ours: our samples' mean and its interval at confidence 1 − α.
        difference: ours − published.
        low, high: Welch's interval of the difference at confidence 1 − α.
        df, p: degrees of freedom and p of Welch's two-sided t-test of no difference.
        p_tost: of the equivalence test: small if the difference is shown to lie within ±margin.
        margin: the difference that still counts as the same number.
        smallest_margin: beyond it every margin passes the equivalence test at level α.
        verdict: ``"not testable"`` where no samples of ours could pass the equivalence test, since the margin is too
            small for the published standard error, or is 0; else ``"reproduced"`` (p_tost < α), else ``"above"`` or
            ``"below"`` (p < α), else ``"inconclusive"``, as always with fewer than :data:`FEWEST_JUDGED` samples.
    """

    ours: Summary
    difference: float
    low: float
    high: float
    df: float
    p: float
    p_tost: float
    margin: float
    smallest_margin: float
    verdict: Verdict


def compare_with_published(
    samples: ArrayLike,
    published_mean: float,
    published_spread: float | None,
    spread_kind: Literal["sd", "sem"] | None,
    published_n: int | None,
    margin: float,
    alpha: float = 0.05,
) -> PublishedComparison:
    """Whether a published number was reproduced, missed, or cannot be judged with so few seeds.

    Welch's t-test (1947) from summary statistics, and two one-sided ones against ±margin (TOST: Schuirmann 1987;
    Lakens 2017). A number published without a spread is taken as exact (one-sample tests). Where neither side varies,
    the tests take their limits for a vanishing spread.

    Args:
        samples: shape (n,), n ≥ 1, one score per seed. With one alone nothing can be tested: p-values are NaN.
        published_mean, published_spread, margin: in the unit of ``samples``. Without a spread the next two are unused.
        spread_kind: ``"sd"`` over the runs or ``"sem"``, the standard error of their mean.
        published_n: number of runs behind the published mean; at least 2 where a spread is given.
        alpha: level of all tests, in (0, 1).

    Raises:
        ValueError: no samples, NaN or infinity among them, or ``alpha`` outside (0, 1).

    Example:
        >>> found = compare_with_published([96.8, 97.1, 97.0, 97.3, 96.9], 97.0, 0.2, "sd", 10, margin=0.5)
        >>> round(found.difference, 2), round(found.p, 2), round(found.p_tost, 4), found.verdict
        (0.02, 0.86, 0.0009, 'reproduced')
    """
    check_fraction(alpha, "alpha")
    ours = summarize(samples, 1 - alpha)
    difference = ours.mean - published_mean
    if abs(difference) <= ROUNDING * max(abs(ours.mean), abs(published_mean)):
        difference = 0.0
    published_error = _published_error(published_spread, spread_kind, published_n)
    least = published_error * _least_margin(published_n, alpha) if published_error else 0.0
    verdict: Verdict = "inconclusive" if least < margin else "not testable"
    if ours.n == 1:
        nothing = (math.nan,) * 5
        return PublishedComparison(ours, difference, *nothing, margin, math.nan, verdict)

    error, df = _standard_error(ours, published_error, published_n)
    p = 2 * float(stats.t.sf(in_errors(abs(difference), error), df))
    p_tost = float(stats.t.sf(in_errors(margin - abs(difference), error), df))  # the larger of the two
    if verdict == "inconclusive" and ours.n >= FEWEST_JUDGED:
        if p_tost < alpha:
            verdict = "reproduced"
        elif p < alpha:
            verdict = "above" if difference > 0 else "below"
    half_width = float(stats.t.isf(alpha / 2, df)) * error
    smallest_margin = abs(difference) + float(stats.t.isf(alpha, df)) * error
    low, high = difference - half_width, difference + half_width
    return PublishedComparison(ours, difference, low, high, df, p, p_tost, margin, smallest_margin, verdict)


def _published_error(spread: float | None, spread_kind: str | None, n: int | None) -> float | None:
    """The standard error of the published mean; None where no spread was published."""
    if spread is None or n is None:
        return None
    return spread / math.sqrt(n) if spread_kind == "sd" else spread


@cache
def _least_margin(n: int, alpha: float) -> float:
    """In standard errors of a mean of n published runs: beyond it lies every margin that the test can show.

    An error of ours of r times the published variance makes the difference's larger, and with it its degrees of
    freedom, at most (n − 1)(1 + r)²: the best r need not be 0.
    """

    def margin(r: float) -> float:
        return float(stats.t.isf(alpha, (n - 1) * (1 + r) ** 2)) * math.sqrt(1 + r)

    return min(margin(0), float(optimize.minimize_scalar(margin, bounds=(0, 10), method="bounded").fun))


def _standard_error(ours: Summary, published_error: float | None, n: int | None) -> tuple[float, float]:
    """Of the difference of the means, and its degrees of freedom (Welch 1947; Satterthwaite 1946)."""
    our_error = ours.sd / math.sqrt(ours.n)
    if published_error is None or n is None:
        return our_error, ours.n - 1.0
    error = math.hypot(our_error, published_error)
    share = (our_error / error) ** 2 if error else 0.5  # of the variance; 0/0 := 0.5
    return error, 1 / (share**2 / (ours.n - 1) + (1 - share) ** 2 / (n - 1))
