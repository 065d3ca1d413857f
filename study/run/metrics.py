"""An accuracy matrix in, one number out.

Throughout, ``accuracy`` has shape (K, T) and values in [0, 1]: ``accuracy[k, j]`` is the accuracy on
experience j after the k-th training call. A continual learner has K = T; joint training is trained once and
has K = 1.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def average_accuracy(accuracy: ArrayLike) -> float:
    """Mean accuracy over all T experiences at the end of training: ``1/T Σ_j a[K−1, j]``.

    Lopez-Paz and Ranzato 2017 (ACC).

    Raises:
        ValueError: ``accuracy`` is not a matrix with values in [0, 1].

    Example:
        >>> average_accuracy([[1.0, 0.5], [0.6, 0.8]])
        0.7
    """
    return float(_matrix(accuracy)[-1].mean())


def forgetting(accuracy: ArrayLike) -> float:
    """Drop from the best accuracy before the last experience: higher is worse.

    ``1/(T−1) Σ_{j<T−1} (max_{j≤k<T−1} a[k, j] − a[T−1, j])``, Chaudhry et al. 2018 (equation 3), with the maximum from
    k = j on: what was not learned yet cannot be forgotten.

    Raises:
        ValueError: ``accuracy`` is not square with T ≥ 2, or has values outside [0, 1].

    Example:
        >>> forgetting([[1.0, 0.5], [0.75, 1.0]])
        0.25
    """
    a = _square(accuracy)
    best = [a[j:-1, j].max() for j in range(len(a) - 1)]
    return float(np.mean(best - a[-1, :-1]))


def backward_transfer(accuracy: ArrayLike) -> float:
    """Effect of later experiences on earlier ones: negative if they hurt.

    ``1/(T−1) Σ_{j<T−1} (a[T−1, j] − a[j, j])``, Lopez-Paz and Ranzato 2017 (BWT). ValueError as :func:`forgetting`.
    """
    a = _square(accuracy)
    return float(np.mean(a[-1, :-1] - np.diag(a)[:-1]))


def learning_accuracy(accuracy: ArrayLike) -> float:
    """Mean accuracy on each experience right after it was learned: ``1/T Σ_j a[j, j]``.

    Riemer et al. 2019 (LA). It shows what a penalty costs in plasticity. ValueError as :func:`forgetting`.
    """
    return float(np.diag(_square(accuracy)).mean())


def _matrix(accuracy: ArrayLike) -> NDArray[np.float64]:
    a = np.asarray(accuracy, dtype=np.float64)
    if a.ndim != 2 or a.size == 0:
        raise ValueError(f"an accuracy matrix has two dimensions and at least one entry, not the shape {a.shape}")
    if not np.all((a >= 0) & (a <= 1)):
        raise ValueError(f"accuracies must be in [0, 1], but they go from {a.min()} to {a.max()}")
    return a


def _square(accuracy: ArrayLike) -> NDArray[np.float64]:
    a = _matrix(accuracy)
    if a.shape[0] != a.shape[1] or len(a) < 2:
        raise ValueError(f"this metric needs one row and one column for each of 2 or more experiences, not {a.shape}")
    return a
