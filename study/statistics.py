"""Samples in, a result dataclass out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Summary:
    """Mean of n samples, and how sure it is.

    Attributes:
        mean: sample mean.
        sd: sample standard deviation (n − 1); NaN for a single sample.
        low, high: the confidence interval of the mean; NaN for a single sample.
        n: number of samples.
    """

    mean: float
    sd: float
    low: float
    high: float
    n: int


def summarize(samples: ArrayLike, confidence: float = 0.95) -> Summary:
    """Mean and Student's t interval over independent samples, for instance one a seed.

    Args:
        samples: shape (n,), n ≥ 1. Equal samples give an interval of width 0; one sample gives none (NaN).
        confidence: of the interval, in (0, 1).

    Raises:
        ValueError: no samples, another shape, NaN or infinity among them, or ``confidence`` outside (0, 1).

    Example:
        >>> summary = summarize([1.0, 2.0, 3.0])
        >>> summary.mean, round(summary.low, 3), round(summary.high, 3)
        (2.0, -0.484, 4.484)
    """
    x = np.asarray(samples, dtype=np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"samples must be a vector with at least one entry, not of shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"samples must be finite, not {x[~np.isfinite(x)][0]}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), not {confidence}")
    if x.size == 1:
        return Summary(float(x[0]), float("nan"), float("nan"), float("nan"), 1)
    if np.all(x == x[0]):  # rounding of the mean would make a spread of 1e-17 out of none
        return Summary(float(x[0]), 0.0, float(x[0]), float(x[0]), x.size)
    mean, sd = float(x.mean()), float(x.std(ddof=1))
    margin = float(stats.t.ppf((1 + confidence) / 2, x.size - 1)) * sd / x.size**0.5
    return Summary(mean, sd, mean - margin, mean + margin, x.size)
