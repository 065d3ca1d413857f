"""Whether two importances agree."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

from clreg_plugins.diagnostics.same_names import same_names_and_shapes


@dataclass(frozen=True)
class Agreement:
    """How alike two importances are, over all entries of all parameters together.

    Attributes:
        spearman: correlation of the ranks, in [-1, 1], ties at their average rank: do both order the entries alike?
            Like ``pearson``, NaN where either importance is the same everywhere.
        pearson: correlation of the values, in [-1, 1].
        cosine: Σ a b / (‖a‖ ‖b‖), 1 if one is a multiple of the other; NaN where either is zero everywhere.
        ratio: Σ a / Σ b: by how much λ must differ for penalties of the same overall strength; NaN if Σ b is zero.
        n: number of entries.
    """

    spearman: float
    pearson: float
    cosine: float
    ratio: float
    n: int


def agreement(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Agreement:
    """Compare two importances of the same model, computed in float64.

    Van de Ven 2025 (arXiv:2502.11756) shows how differently the variants of the Fisher behave; this says how much
    they differ on a model at hand.

    Args:
        a: importance by parameter name, for instance of :func:`fisher_diagonal` or ``plugin.importance``.
        b: another, with the same names and shapes; it may lie on another device.

    Raises:
        ValueError: one is no dict of tensors, names or shapes differ (it names them), there is no entry, or an entry
            is NaN or infinite.

    Example:
        >>> import torch
        >>> a = {"weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
        >>> b = {"weight": torch.tensor([[1.0, 4.0], [9.0, 16.0]])}
        >>> result = agreement(a, b)
        >>> round(result.spearman, 3), round(result.pearson, 3), round(result.cosine, 3), round(result.ratio, 3)
        (1.0, 0.984, 0.97, 0.333)
    """
    same_names_and_shapes({"a": a, "b": b})
    x, y = (np.concatenate([_vector(side, name, values[name]) for name in a]) for side, values in (("a", a), ("b", b)))
    return Agreement(
        spearman=_correlation(rankdata(x), rankdata(y)),
        pearson=_correlation(x, y),
        cosine=_cosine(x, y),
        ratio=float(x.sum() / y.sum()) if y.sum() else float("nan"),
        n=x.size,
    )


def _vector(side: str, name: str, values: Tensor) -> np.ndarray:
    vector = values.detach().cpu().double().flatten().numpy()
    if not np.isfinite(vector).all():
        raise ValueError(f"{side}[{name!r}] holds {vector[~np.isfinite(vector)][0]}; every entry must be finite")
    return vector


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if x.min() == x.max() or y.min() == y.max():  # rounding of the mean would make a deviation out of none
        return float("nan")
    return _cosine(x - x.mean(), y - y.mean())


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    if not (x.any() and y.any()):
        return float("nan")
    x, y = x / np.abs(x).max(), y / np.abs(y).max()  # squares of a small importance would underflow
    return float(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), -1, 1))
