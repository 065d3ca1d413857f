"""How good an importance's quadratic approximation of the loss is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset

from clreg_plugins.checks import instance, listed, mapping, one_of, whole
from clreg_plugins.diagnostics.log_likelihood import Loss
from clreg_plugins.diagnostics.outputs import COPY_ALL, Outputs
from clreg_plugins.diagnostics.same_names import same_names_and_shapes
from clreg_plugins.diagnostics.second_derivatives import derivatives_along
from clreg_plugins.factors import KroneckerFactors
from clreg_plugins.importance.engine.cotangents import LIKELIHOODS
from clreg_plugins.importance.engine.data import BATCH, Unpack, batches
from clreg_plugins.importance.engine.environment import loader_states
from clreg_plugins.importance.engine.model import Forward, default_forward, named_parameters, names_task_labels, unwrap
from clreg_plugins.importance.engine.moments import measured
from clreg_plugins.importance.options import PASS_DEFAULTS, checked
from clreg_plugins.kronecker import KroneckerPenalty
from clreg_plugins.penalty import QuadraticPenalty


@dataclass(frozen=True)
class QuadraticPicture:
    """The increase of the loss at some points, and what quadratics around the anchor predict.

    With δ = θ − θ*, and g, H and G the gradient, Hessian and Gauss–Newton matrix of the mean loss at the anchor. Arrays
    have the shape (points,), in float64; losses are in nats.

    Attributes:
        distance: ‖δ‖.
        actual: mean negative log-likelihood minus that at the anchor.
        first_order: gᵀδ; 0 at a minimum.
        gauss_newton: ½ δᵀGδ. For these likelihoods G is the exact Fisher, whole instead of its diagonal.
        hessian: ½ δᵀHδ, which may be negative. ``first_order + hessian`` is ``actual`` up to terms of third order in δ.
        predicted: ½ δᵀCδ by name of the curvature C.
    """

    distance: np.ndarray
    actual: np.ndarray
    first_order: np.ndarray
    gauss_newton: np.ndarray
    hessian: np.ndarray
    predicted: dict[str, np.ndarray]

    @property
    def share(self) -> dict[str, np.ndarray]:
        """``predicted / gauss_newton`` by name: the part of the curvature along δ that each C holds; NaN at δ = 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return {name: values / self.gauss_newton for name, values in self.predicted.items()}


def quadratic_picture(
    model: nn.Module,
    data: DataLoader | Dataset,
    anchor: Mapping[str, Tensor],
    points: Iterable[Mapping[str, Tensor]],
    curvatures: Mapping[str, Mapping[str, Tensor] | KroneckerFactors],
    *,
    likelihood: str = "categorical",
    class_dim: int = 1,
    ignore_index: int = -100,
    n_samples: int | None = None,
    batch_size: int = BATCH,
    seed: int = 0,
    num_workers: int = 0,
    forward: Forward | None = None,
    unpack: Unpack | None = None,
) -> QuadraticPicture:
    """Compare the true loss at some points with quadratics around ``anchor``.

    EWC takes ``L(θ) − L(θ*) ≈ ½ δᵀCδ`` for a task that is over, with C the diagonal of the Fisher (Kirkpatrick et al.
    2017, section 2.1) or its Kronecker factors (Ritter et al. 2018). The increase differs from it where θ* is no
    minimum (``first_order``), where C is not the whole Fisher (``share``), where the Fisher is not the Hessian
    (``gauss_newton`` against ``hessian``), and where the loss is not quadratic (``actual``).

    ``gauss_newton`` and ``hessian`` are exact, and no matrix is formed. With z the outputs, v = ∂L/∂z and J = ∂z/∂θ,
    the derivatives of (Jᵀv)·δ with respect to v and to θ are Jδ and the part of Hδ that is not Gauss–Newton's
    (Pearlmutter 1994; Schraudolph 2002), so that one graph of Jᵀv serves all points. A batch takes the memory of its
    forward and backward pass with their graph.

    Args:
        model: any module whose output has the samples along its first dimension, as for :func:`fisher_diagonal`, that
            can be differentiated twice. It is evaluated in the mode in which that measures it, eval mode with few
            exceptions (see :class:`Importance`), and left as it was.
        data: what the curvatures were measured on, with targets: class labels or class probabilities (categorical),
            or targets of the shape of the output.
        anchor: θ* by parameter name, for instance ``plugin.anchor``. Parameters that are not named keep the value that
            they have in ``model``.
        points: θ with the same names and shapes: a path of training, or a straight line.
        curvatures: by a name of your own, what :func:`fisher_diagonal`, :func:`mas_importance` or
            :func:`kronecker_factors` returns, or a dict like the former, without λ. Each has an entry for every
            parameter of the anchor.
        likelihood: "categorical", "gaussian" (σ = 1) or "bernoulli" (of logits).
        class_dim: as for :func:`fisher_diagonal`.
        ignore_index: as for :func:`fisher_diagonal`.
        n_samples: use that many samples, drawn without replacement (of a DataLoader: its first); default all.
        batch_size: of a Dataset, samples read at a time.
        seed: of the draw of samples; the global generators are not touched.
        num_workers: of the DataLoader made for a Dataset.
        forward: see :class:`PassOptions`.
        unpack: see :class:`PassOptions`.

    Raises:
        ValueError: names or shapes differ (it names them) or are not the model's, an option outside what is
            allowed, empty data, missing or unfit targets, a model that cannot be differentiated twice, or that
            changes its parameters in the forward pass.
        TypeError: data of an unknown kind.
        FloatingPointError: a curvature, or the loss at a point, is NaN or infinite.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> data = torch.utils.data.TensorDataset(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [6.0]]))
        >>> fisher, anchor, point = ({"weight": torch.tensor([[value]])} for value in (5.0, 2.0, 4.0))
        >>> picture = quadratic_picture(model, data, anchor, [point], {"exact": fisher}, likelihood="gaussian")
        >>> picture.actual.tolist(), picture.hessian.tolist(), picture.predicted["exact"].tolist()
        ([10.0], [10.0], [10.0])
    """
    one_of("likelihood", likelihood, LIKELIHOODS)
    whole("class_dim", class_dim, -64, 64)
    whole("ignore_index", ignore_index, -(2**63))
    whole("batch_size", batch_size, 1)
    reading = {"n_samples": n_samples, "batch_size": batch_size, "num_workers": num_workers, "unpack": unpack}
    checked(reading | {"seed": seed, "forward": forward}, PASS_DEFAULTS, "quadratic_picture")
    instance("model", model, nn.Module, "a torch.nn.Module")
    instance("points", points, Iterable, "dicts of tensors by name, in a list")
    mapping("curvatures", curvatures)
    loss, forward, points = Loss(likelihood, class_dim, ignore_index), forward or default_forward, list(points)
    if not points:
        raise ValueError("points is empty; it needs at least one")
    model = unwrap(model)
    parameters = {name: p for name, p in named_parameters(model).items() if name in mapping("anchor", anchor)}
    numbered = {f"points[{i}]": point for i, point in enumerate(points)}
    same_names_and_shapes({"anchor": anchor, "model": parameters, **numbered})
    anchor, *points = _apart(model, [anchor, *points])
    present = {name: p.detach() for name, p in named_parameters(model).items()}
    predicted = {name: _quadratic(name, c, present | dict(anchor), anchor, points) for name, c in curvatures.items()}

    read = batches(
        data,
        **reading,
        batches_matter=False,
        generator=Generator(device="cpu").manual_seed(seed),
        task_aware=names_task_labels(model),
    )
    sums, samples = np.zeros((4, len(points))), 0
    reached = False
    # attention's other kernels cannot be differentiated twice
    with loader_states(data), measured(model, COPY_ALL) as base, sdpa_kernel(SDPBackend.MATH):
        for name, p in named_parameters(model).items():
            p.requires_grad_(name in anchor)  # also one that is frozen by now
        outputs = Outputs(model, parameters, forward, base)
        for batch in read:  # read once, so that all points see the same samples, whatever order a DataLoader gives
            batch = batch.to(next((p.device for p in model.parameters()), torch.device("cpu")))
            z = outputs(batch, anchor)
            samples += loss.counted(z, batch)
            if z.requires_grad:
                reached = True
                sums[1:] += derivatives_along(loss, z, batch, parameters, anchor, points)
            before = float(loss(z.detach(), batch))
            del z  # with its graph
            with torch.no_grad():
                for i, point in enumerate(points):
                    sums[0, i] += float(loss(outputs(batch, point), batch)) - before
    if not samples:
        raise ValueError("no sample of the data counts: all targets are ignore_index; at least one must not be")
    if not reached:
        raise ValueError(
            "no output of the model depends on a parameter of the anchor; see whether its forward detaches"
        )
    actual, first_order, gauss_newton, rest = sums / samples
    for what, values in (("the loss", actual), ("the curvature", gauss_newton + rest)):
        for i in np.flatnonzero(~np.isfinite(values)):
            raise FloatingPointError(f"{what} at points[{i}] is {values[i]}; it must be finite")
    distance = np.array([sum(_squared_distance(point[n], anchor[n]) for n in anchor) ** 0.5 for point in points])
    return QuadraticPicture(distance, actual, first_order, gauss_newton, gauss_newton + rest, predicted)


def _quadratic(
    name: str,
    curvature: Mapping[str, Tensor] | KroneckerFactors,
    centre: Mapping[str, Tensor],
    anchor: Mapping[str, Tensor],
    points: Sequence[Mapping[str, Tensor]],
) -> np.ndarray:
    """½ δᵀCδ at each point.

    Args:
        name: of the curvature.
        curvature: C.
        centre: θ* for every parameter of the model: those that are not in ``anchor`` do not move.
        anchor: θ*.
        points: θ.
    """
    factored = isinstance(curvature, KroneckerFactors)
    layers = curvature.values() if factored else ()
    mapping(f"curvatures[{name!r}]", curvature)
    known = {*(curvature.diagonal if factored else curvature), *(n for layer in layers for n in layer.parameters)}
    if missing := [n for n in anchor if n not in known]:
        raise ValueError(f"curvatures[{name!r}] has no {listed(missing)}, but anchor has; both need the same names")
    penalty = KroneckerPenalty() if factored else QuadraticPenalty()
    at = {n: value.cpu().double() for n, value in centre.items() if n in known}
    try:
        penalty.grow(at)
        penalty.recenter(curvature, at, clip=None)
    except (TypeError, ValueError, FloatingPointError) as error:
        raise type(error)(f"curvatures[{name!r}]: {error}") from error
    return np.array([float(penalty.step(at | {n: point[n].cpu() for n in anchor}, 1.0).value) for point in points])


def _apart(model: nn.Module, values: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Parameters by name, with copies of those that the model itself holds: it is moved."""
    held = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return [
        {name: t.detach().clone() if t.untyped_storage().data_ptr() in held else t.detach() for name, t in each.items()}
        for each in values
    ]


def _squared_distance(a: Tensor, b: Tensor) -> float:
    return float((a.cpu().double() - b.cpu().double()).square().sum())
