"""Whether two importances agree, and how good an importance's quadratic approximation of the loss is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset

from clreg_plugins.importance.checks import one_of, whole, within
from clreg_plugins.importance.engine.cotangents import LIKELIHOODS, fisher_cotangents
from clreg_plugins.importance.engine.data import BATCH, Batch, batches
from clreg_plugins.importance.engine.model import Forward, default_forward, named_parameters, names_task_labels, unwrap
from clreg_plugins.importance.engine.moments import measured

COPY_ALL = 2**62
"""A bound on memory that no model reaches: of every parameter that is moved a copy is kept."""


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
        ValueError: names or shapes differ (it names them), there is no entry, or an entry is NaN or infinite.

    Example:
        >>> a = {"weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
        >>> b = {"weight": torch.tensor([[1.0, 4.0], [9.0, 16.0]])}
        >>> result = agreement(a, b)
        >>> round(result.spearman, 3), round(result.pearson, 3), round(result.cosine, 3), round(result.ratio, 3)
        (1.0, 0.984, 0.97, 0.333)
    """
    _same_names_and_shapes({"a": a, "b": b})
    x, y = (np.concatenate([_vector(side, name, values[name]) for name in a]) for side, values in (("a", a), ("b", b)))
    return Agreement(
        spearman=_correlation(rankdata(x), rankdata(y)),
        pearson=_correlation(x, y),
        cosine=_cosine(x, y),
        ratio=float(x.sum() / y.sum()) if y.sum() else float("nan"),
        n=x.size,
    )


@dataclass(frozen=True)
class QuadraticFit:
    """The increase of the loss along a segment, and what a quadratic penalty says of it.

    Attributes:
        fractions: of the way from the anchor to the other parameters, shape (points,).
        actual: increase of the mean negative log-likelihood over that at the anchor, in nats, shape (points,).
        predicted: ½ Σ_i F_i (θ_i − θ*_i)², shape (points,).
    """

    fractions: np.ndarray
    actual: np.ndarray
    predicted: np.ndarray


def quadratic_fit(
    model: nn.Module,
    data: DataLoader | Dataset,
    importance: Mapping[str, Tensor],
    anchor: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    *,
    fractions: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    likelihood: str = "categorical",
    n_samples: int | None = None,
    batch_size: int = BATCH,
    seed: int = 0,
    num_workers: int = 0,
    forward: Forward = default_forward,
) -> QuadraticFit:
    """Compare the true loss with the quadratic around ``anchor``, along a straight line to ``other``.

    EWC takes ``L(θ) − L(θ*) ≈ ½ Σ F_i (θ_i − θ*_i)²`` for a task that is over (Kirkpatrick et al. 2017, section 2.1:
    Laplace's approximation with a diagonal). The true increase differs from it where θ* is no minimum, where the
    Hessian is not the Fisher or not diagonal, and where the loss is not quadratic.

    Args:
        model: any module whose output has the samples along its first dimension, as for :func:`fisher_diagonal`.
            It is evaluated in eval mode; its parameters and modes are left as they were.
        data: what the importance was measured on, with targets: class labels or class probabilities (categorical),
            or targets of the shape of the output.
        importance: F by parameter name, without λ.
        anchor: θ*, with the same names and shapes, for instance ``plugin.anchor``.
        other: where the segment ends, with the same names and shapes. Parameters that are not named keep the value
            that they have in ``model``.
        fractions: points on the segment, 0 being the anchor and 1 ``other``; any finite number is allowed.
        likelihood: "categorical", "gaussian" (σ = 1) or "bernoulli" (of logits).
        n_samples: use that many samples, drawn without replacement (of a DataLoader: its first); default all.
        batch_size: of a Dataset, samples read at a time.
        seed: of the draw of samples; the global generators are not touched.
        num_workers: of the DataLoader made for a Dataset.
        forward: how to call the model; by default with task labels if its forward names ``task_labels``.

    Raises:
        ValueError: names or shapes differ (it names them) or are not the model's, an option outside what is
            allowed, empty data, missing or unfit targets.
        TypeError: data of an unknown kind.
        FloatingPointError: the loss is NaN or infinite somewhere on the segment.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> data = torch.utils.data.TensorDataset(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [6.0]]))
        >>> fisher, anchor, other = ({"weight": torch.tensor([[value]])} for value in (5.0, 2.0, 4.0))
        >>> fit = quadratic_fit(model, data, fisher, anchor, other, fractions=(0.5, 1.0), likelihood="gaussian")
        >>> fit.actual.tolist(), fit.predicted.tolist()
        ([2.5, 10.0], [2.5, 10.0])
    """
    one_of("likelihood", likelihood, LIKELIHOODS)
    whole("n_samples", n_samples, 1, none="all")
    whole("batch_size", batch_size, 1)
    whole("seed", seed, 0)
    whole("num_workers", num_workers, 0, 1024)
    points = [within(f"fractions[{i}]", fraction, -np.inf) for i, fraction in enumerate(fractions)]
    _same_names_and_shapes({"importance": importance, "anchor": anchor, "other": other})
    _same_names_and_shapes({"importance": importance, "model": _named(model, importance)})

    read = batches(
        data,
        batch_size=batch_size,
        batches_matter=False,
        n_samples=n_samples,
        num_workers=num_workers,
        generator=Generator(device="cpu").manual_seed(seed),
        task_aware=names_task_labels(unwrap(model)),
    )
    total, samples = np.zeros(1 + len(points)), 0
    parameters = _named(model, importance)
    with measured(unwrap(model), COPY_ALL), torch.no_grad():
        unwrap(model).eval()
        for batch in read:  # read once, so that all points see the same samples, whatever order a DataLoader gives
            samples += batch.size
            for i, fraction in enumerate([0.0, *points]):
                _move(parameters, anchor, other, fraction)
                total[i] += _loss(unwrap(model), batch, likelihood, forward)
    loss = total / samples
    for value, fraction in zip(loss, [0.0, *points], strict=True):
        if not np.isfinite(value):
            raise FloatingPointError(f"the loss is {value} at fraction {fraction:g} of the segment; it must be finite")
    curvature = sum(
        float((f.cpu().double() * (other[name].cpu().double() - anchor[name].cpu().double()) ** 2).sum())
        for name, f in importance.items()
    )
    at = np.array(points, dtype=np.float64)
    return QuadraticFit(at, loss[1:] - loss[0], 0.5 * curvature * at**2)


# ------------------------------------------------------------------- two vectors


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


# ----------------------------------------------------------------- along a segment


def _named(model: nn.Module, names: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    return {name: p for name, p in named_parameters(model).items() if name in names}


def _move(
    parameters: Mapping[str, nn.Parameter], anchor: Mapping[str, Tensor], other: Mapping[str, Tensor], fraction: float
) -> None:
    for name, p in parameters.items():
        start, end = anchor[name].cpu(), other[name].cpu()
        p.copy_(start if fraction == 0 else start.double() + fraction * (end.double() - start.double()))


def _loss(model: nn.Module, batch: Batch, likelihood: str, forward: Forward) -> float:
    """Negative log-likelihood, summed over samples and outputs, without the constant of the Gaussian."""
    batch = batch.to(next((p.device for p in model.parameters()), torch.device("cpu")))
    z, y = forward(model, batch.inputs, batch.task_labels).cpu().double(), batch.targets
    if y is None:
        raise ValueError("the actual loss needs targets, but the data has none")
    y = y.cpu()
    check = fisher_cotangents("empirical", likelihood).vectors(z, y, Generator(device="cpu"))
    next(check)  # that the targets fit the outputs
    if likelihood == "categorical":
        return float(F.cross_entropy(z, y.to(z) if y.is_floating_point() else y.long(), reduction="sum"))
    if likelihood == "gaussian":
        return 0.5 * float(F.mse_loss(z, y.to(z), reduction="sum"))
    return float(F.binary_cross_entropy_with_logits(z, y.to(z), reduction="sum"))


# -------------------------------------------------------------------------- checks


def _same_names_and_shapes(sides: Mapping[str, Mapping[str, Tensor]]) -> None:
    (first, reference), *others = sides.items()
    if not sum(values.numel() for values in reference.values()):
        raise ValueError(f"{first} has no entries; it needs at least one")
    for side, values in others:
        if missing := [name for name in reference if name not in values]:
            raise ValueError(f"{side} has no {_listed(missing)}, but {first} has; both need the same names")
        if extra := [name for name in values if name not in reference]:
            raise ValueError(f"{first} has no {_listed(extra)}, but {side} has; both need the same names")
        for name, value in reference.items():
            if value.shape != values[name].shape:
                raise ValueError(
                    f"{name!r} has shape {tuple(value.shape)} in {first}, but {tuple(values[name].shape)} in {side}"
                )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
