"""Whether two importances agree, and how good an importance's quadratic approximation of the loss is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset

from clreg_plugins.checks import dense, instance, mapping, one_of, whole
from clreg_plugins.factors import KroneckerFactors
from clreg_plugins.importance.engine.cotangents import LIKELIHOODS, Positions, fisher_cotangents
from clreg_plugins.importance.engine.data import BATCH, Batch, Unpack, batches, map_tensors
from clreg_plugins.importance.engine.environment import loader_states, random_states
from clreg_plugins.importance.engine.general_path import is_out_of_memory
from clreg_plugins.importance.engine.model import Forward, default_forward, named_parameters, names_task_labels, unwrap
from clreg_plugins.importance.engine.modes import choose_mode
from clreg_plugins.importance.engine.moments import measured
from clreg_plugins.importance.engine.recording import Graph
from clreg_plugins.importance.engine.snapshot import Snapshot
from clreg_plugins.importance.options import PASS_DEFAULTS, checked
from clreg_plugins.kronecker import KroneckerPenalty
from clreg_plugins.penalty import QuadraticPenalty, listed

COPY_ALL = 2**62
"""A memory bound that no model reaches: every parameter that is moved is copied."""


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
    _same_names_and_shapes({"anchor": anchor, "model": parameters, **numbered})
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
                sums[1:] += _derivatives(loss, z, batch, parameters, anchor, points)
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


# ------------------------------------------------------------------------ quadratics


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


# ------------------------------------------------------------------------- the loss


class Loss:
    """Negative log-likelihood, summed over samples and outputs, in float64 and without the constant of the Gaussian.

    Args:
        likelihood: "categorical", "gaussian" or "bernoulli".
        class_dim: of a categorical likelihood.
        ignore_index: of a categorical likelihood.
    """

    def __init__(self, likelihood: str, class_dim: int, ignore_index: int) -> None:
        self.likelihood, self.class_dim, self.ignore_index = likelihood, class_dim, ignore_index
        self._cotangents = fisher_cotangents("empirical", likelihood, 1, class_dim, ignore_index)

    def counted(self, z: Tensor, batch: Batch) -> int:
        """How many samples count, after checking that the targets fit the outputs."""
        if batch.targets is None:
            raise ValueError("the actual loss needs targets, but the data has none")
        next(self._cotangents.vectors(z.detach(), batch.targets, Generator(device="cpu")))
        counted = self._cotangents.counted(z.detach(), batch.targets)
        return batch.size if counted is None else int(counted.sum())

    def __call__(self, z: Tensor, batch: Batch) -> Tensor:
        z, y = z.cpu().double(), batch.targets.cpu()
        if self.likelihood == "gaussian":
            return 0.5 * F.mse_loss(z, y.to(z), reduction="sum")
        if self.likelihood == "bernoulli":
            return F.binary_cross_entropy_with_logits(z, y.to(z), reduction="sum")
        positions = Positions(z, self.class_dim)
        y = positions.targets(y)
        ignored = {} if y.is_floating_point() else {"ignore_index": self.ignore_index}
        return F.cross_entropy(positions.logits, y if y.is_floating_point() else y.long(), reduction="sum", **ignored)


class Outputs:
    """z at given parameters, each time from the state that the model has at first, and with the same draws.

    The mode is the one in which a pass measures the model: with the first batch it is chosen.

    Args:
        model: without wrappers.
        parameters: those that are moved.
        forward: how to call it.
        base: its state, by which the caller puts everything back.
    """

    def __init__(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], forward: Forward, base: Snapshot
    ) -> None:
        self.model, self.parameters, self.forward = model, parameters, forward
        self._base = base
        self._start: Snapshot | None = None

    def __call__(self, batch: Batch, to: Mapping[str, Tensor]) -> Tensor:
        if self._start is None:
            choose_mode(self.model, lambda: self._reached(batch))
        self._start.restore()
        _move(self.parameters, to)
        z = self._run(batch)
        if changed := [name for name, p in self.parameters.items() if not torch.equal(p.detach(), to[name].to(p))]:
            raise ValueError(
                f"the model's forward pass changes {listed(changed)}, as an embedding with max_norm does, which "
                "PyTorch's derivatives leave out; allowed: a model that leaves its parameters as they are"
            )
        return z

    def _reached(self, batch: Batch) -> set[str]:
        self._start = Snapshot(self.model, COPY_ALL, self._base)
        uses = Graph(self._run(batch)).uses
        self._start.restore()  # or the other mode would begin with what this one left
        return {name for name, p in self.parameters.items() if uses[id(p)]}

    def _run(self, batch: Batch) -> Tensor:
        inputs, labels = map_tensors(torch.clone, (batch.inputs, batch.task_labels))  # it may write into its inputs
        with random_states():
            z = self.forward(self.model, inputs, labels)
        if not isinstance(z, Tensor):
            raise ValueError(
                f"the model's output is a {type(z).__name__}; allowed: a tensor with the samples along its first "
                "dimension; of other outputs, forward= can return it"
            )
        return z


def _derivatives(
    loss: Loss,
    z: Tensor,
    batch: Batch,
    parameters: Mapping[str, nn.Parameter],
    anchor: Mapping[str, Tensor],
    points: Sequence[Mapping[str, Tensor]],
) -> np.ndarray:
    """gᵀδ, ½ δᵀGδ and ½ δᵀ(H − G)δ at each point, summed over the samples: shape (3, points)."""
    found = np.zeros((3, len(points)))
    outputs = z.detach().cpu().double().requires_grad_()
    (v,) = torch.autograd.grad(loss(outputs, batch), outputs, create_graph=True)
    pulled = v.detach().to(z).requires_grad_()
    try:
        gradients = torch.autograd.grad(z, list(parameters.values()), pulled, create_graph=True, allow_unused=True)
        used = {name: g.to_dense() for name, g in zip(parameters, gradients, strict=True) if g is not None}

        def along(delta: Mapping[str, Tensor]) -> tuple[float, float, dict[str, Tensor]]:
            """gᵀδ, δᵀGδ and (H − G)δ by parameter."""
            terms = [(g * delta[name]).sum() for name, g in used.items()]
            jvp, *rows = torch.autograd.grad(
                sum(terms), [pulled, *(parameters[name] for name in used)], retain_graph=True, allow_unused=True
            )
            u = torch.zeros_like(v) if jvp is None else jvp.cpu().double()
            (of_outputs,) = torch.autograd.grad(v, outputs, u, retain_graph=True)
            first_order = float((v.detach() * u).sum())
            # autograd leaves out what is differentiable once, such as some custom functions, and says nothing
            scale = _dot(used, delta, absolute=True)
            if abs(first_order - float(sum(terms).detach())) > tolerance * scale:
                raise RuntimeError("the gradient of a part of it has no graph")
            rest = {name: row for name, row in zip(used, rows, strict=True) if row is not None}
            return first_order, float((of_outputs * u).sum()), rest

        tolerance, generator = torch.finfo(z.dtype).eps ** 0.5, Generator(device="cpu").manual_seed(0)
        any_other = {
            name: torch.randn(g.shape, generator=generator, dtype=torch.float64, device="cpu").to(g.device, g.dtype)
            for name, g in used.items()
        }
        _, curvature_of_other, rest_of_other = along(any_other)
        for i, point in enumerate(points):
            delta = {name: _difference(point[name], anchor[name], parameters[name]) for name in used}
            first_order, curvature, rest = along(delta)
            # not all second derivatives of PyTorch's are right: weight norm's is not even symmetric
            gap = abs(_dot(rest, any_other) - _dot(rest_of_other, delta))
            scale = _dot(rest, any_other, absolute=True) + _dot(rest_of_other, delta, absolute=True)
            if gap > tolerance * (scale + max(curvature * curvature_of_other, 0) ** 0.5):
                raise RuntimeError("PyTorch's second derivative of a part of it is not symmetric")
            found[:, i] = first_order, 0.5 * curvature, 0.5 * _dot(rest, delta)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"the model cannot be differentiated twice, which its curvature takes: {reason}") from error
    return found


def _dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor], *, absolute: bool = False) -> float:
    """``Σ_i a_i b_i`` over the names of ``a``, or the sum of the absolute values."""
    products = (a[name].detach() * b[name] for name in a)
    return sum(float((product.abs() if absolute else product).sum()) for product in products)


def _difference(point: Tensor, anchor: Tensor, p: nn.Parameter) -> Tensor:
    return (point.to(p.device) - anchor.to(p.device)).to(p.dtype)


@torch.no_grad()
def _move(parameters: Mapping[str, nn.Parameter], to: Mapping[str, Tensor]) -> None:
    for name, p in parameters.items():
        p.copy_(to[name])


# -------------------------------------------------------------------------- checks


def _same_names_and_shapes(sides: Mapping[str, Mapping[str, Tensor]]) -> None:
    for side, values in sides.items():
        for name, value in mapping(side, values).items():
            dense(f"{side}[{name!r}]", value)
    (first, reference), *others = sides.items()
    if not sum(values.numel() for values in reference.values()):
        raise ValueError(f"{first} has no entries; it needs at least one")
    for side, values in others:
        if missing := [name for name in reference if name not in values]:
            raise ValueError(f"{side} has no {listed(missing)}, but {first} has; both need the same names")
        if extra := [name for name in values if name not in reference]:
            raise ValueError(f"{first} has no {listed(extra)}, but {side} has; both need the same names")
        for name, value in reference.items():
            if value.shape != values[name].shape:
                raise ValueError(
                    f"{name!r} has shape {tuple(value.shape)} in {first}, but {tuple(values[name].shape)} in {side}"
                )
