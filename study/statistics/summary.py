"""The mean of samples and its confidence interval."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from study.statistics.samples import ROUNDING, check_fraction, resamples_at_a_time, vector

BOOTSTRAP_FROM = 20
"""Samples from which on intervals are bootstrapped; with fewer, bootstrap intervals cover too little."""

Interval = Literal["t", "bca", "constant", "none"]


@dataclass(frozen=True)
class Summary:
    """Mean of n samples, standard deviation (n − 1) and confidence interval; the last two are NaN for one sample.

    ``interval`` says what the interval is: ``"t"`` (Student), ``"bca"`` (bootstrap), ``"constant"`` (all samples
    equal: width 0) or ``"none"`` (one sample).
    """

    mean: float
    sd: float
    low: float
    high: float
    n: int
    interval: Interval


def summarize(samples: ArrayLike, confidence: float = 0.95) -> Summary:
    """Mean and confidence interval: Student's t below 20 samples, the BCa bootstrap (Efron 1987) from there on.

    Args:
        samples: independent, shape (n,), n ≥ 1. Those that differ by rounding alone count as equal.
        confidence: of the interval, in (0, 1).

    Raises:
        ValueError: no samples, another shape, NaN or infinity among them, or ``confidence`` outside (0, 1).

    Example:
        >>> summary = summarize([1.0, 2.0, 3.0])
        >>> summary.mean, round(summary.low, 3), round(summary.high, 3), summary.interval
        (2.0, -0.484, 4.484, 't')
    """
    x = vector(samples, "samples")
    check_fraction(confidence, "confidence")
    if x.size == 1:
        return Summary(float(x[0]), math.nan, math.nan, math.nan, 1, "none")
    if np.ptp(x) <= ROUNDING * np.abs(x).max():  # rounding of the mean would make a spread of 1e-17 out of none
        return Summary(float(x[0]), 0.0, float(x[0]), float(x[0]), x.size, "constant")
    mean, sd = float(x.mean()), float(x.std(ddof=1))
    if x.size < BOOTSTRAP_FROM:
        half_width = float(stats.t.ppf((1 + confidence) / 2, x.size - 1)) * sd / math.sqrt(x.size)
        return Summary(mean, sd, mean - half_width, mean + half_width, x.size, "t")
    generator = np.random.default_rng(0)
    found = stats.bootstrap(
        (x,),
        np.mean,
        confidence_level=confidence,
        method="BCa",
        batch=resamples_at_a_time(x.size),
        random_state=generator,
    )
    low, high = found.confidence_interval
    return Summary(mean, sd, float(low), float(high), x.size, "bca")
