"""Validation of samples, and equality up to rounding."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDING = 1e-10
"""Relative to the largest score: what differs by no more is equal (0.9 − 0.8 ≠ 0.8 − 0.7), where tests count ties."""


def resamples_at_a_time(n: int) -> int:
    """How many resamples of n samples are held at a time: 32 MiB of them, since all would take memory without bound."""
    return max(1, 2**22 // n)


def vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """``values`` as a vector of at least one finite number, or a ValueError that calls them ``name``."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"{name} must be a vector with at least one entry, not of shape {x.shape}")
    check_finite(x, name)
    return x


def check_finite(x: NDArray[np.float64], name: str) -> None:
    if not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite, not {x[~np.isfinite(x)][0]}")


def check_fraction(value: float, name: str) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be in (0, 1), not {value}")


def in_errors(difference: float, error: float) -> float:
    """``difference`` in standard errors: 0, or infinite, where the error is 0."""
    if error == 0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / error


def merge_ties(x: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """``x`` with the entries that follow each other within ``tolerance``, by size, made equal to their smallest.

    Example:
        >>> merge_ties(np.array([0.5, 0.1 + 0.2, 0.3]), 1e-12).tolist()
        [0.5, 0.3, 0.3]
    """
    order = np.argsort(x)
    ascending = x[order]
    first_of_its_kind = np.diff(ascending, prepend=-np.inf) > tolerance
    merged = np.empty_like(x)
    merged[order] = ascending[first_of_its_kind][np.cumsum(first_of_its_kind) - 1]
    return merged
