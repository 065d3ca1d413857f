"""The vectors v_nk that are pulled back through the model, one function for each row of the table of importances.

Each function takes the outputs ``z`` (samples along the first dimension, no gradient attached), the targets ``y``
or None, and a CPU generator, and yields K cotangents of the shape of ``z``. With J_n the Jacobian of sample n,

    importance_i = 1/N Σ_n ( Σ_k (v_nkᵀ J_n)_i² )^(p/2),

with p = 2 for Fisher information and p = 1 for the sensitivity of MAS.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

VARIANTS = ("exact", "sample", "predicted", "empirical", "batched")
LIKELIHOODS = ("categorical", "gaussian", "bernoulli")
OUTPUTS = ("squared_norm", "mean_square", "vector")

Vectors = Callable[[Tensor, Tensor | None, Generator], Iterator[Tensor]]


class Cotangents(NamedTuple):
    """What one importance pulls back.

    Attributes:
        vectors: ``(z, y, generator) ->`` K cotangents, one after the other, each of the shape of ``z``.
        number: ``z ->`` K, or a bound of it.
        counted: ``(z, y) ->`` which samples count, shape (samples,), or None if all do.
        as_asked: K is a number that the caller gave.
    """

    vectors: Vectors
    number: Callable[[Tensor], int]
    counted: Callable[[Tensor, Tensor | None], Tensor | None] = lambda _z, _y: None
    as_asked: bool = False


def fisher_cotangents(
    variant: str, likelihood: str, draws: int = 1, class_dim: int = 1, ignore_index: int = -100
) -> Cotangents:
    """The cotangents of one variant of the Fisher information under one likelihood.

    Args:
        draws: of "sample".
        class_dim: of a categorical likelihood, the dimension of the classes; all further ones are positions.
        ignore_index: of a categorical likelihood, the target of positions that do not count.

    Raises:
        ValueError: an unknown variant or likelihood, "predicted" with a Gaussian likelihood, where the most
            likely target is the output itself and the score is zero, or classes along the samples.
    """
    if class_dim == 0:
        raise ValueError("class_dim is 0; allowed: any other dimension, since that is of the samples")
    if variant not in VARIANTS:
        raise ValueError(f"Fisher variant is {variant!r}; allowed: {', '.join(VARIANTS)}")
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"likelihood is {likelihood!r}; allowed: {', '.join(LIKELIHOODS)}")
    if (variant, likelihood) == ("predicted", "gaussian"):
        raise ValueError(
            "Fisher variant 'predicted' is zero under a gaussian likelihood; "
            "allowed with it: exact, sample, empirical, batched"
        )
    function = _FISHER[variant, likelihood]
    if variant == "sample":
        function = partial(function, draws=draws)
    numbers = {"exact": _outputs_a_sample, "sample": lambda _z: draws}
    number = numbers.get(variant, lambda _z: 1)
    if likelihood != "categorical":
        return Cotangents(function, number, as_asked=variant == "sample")

    def vectors(z: Tensor, y: Tensor | None, generator: Generator) -> Iterator[Tensor]:
        positions = Positions(z, class_dim)
        counts = positions.counted(y, ignore_index)
        targets = positions.targets(y) if variant in ("empirical", "batched") else None
        for v in function(positions.logits.softmax(dim=1), targets, counts, generator):
            yield positions.back(v)

    def counted(z: Tensor, y: Tensor | None) -> Tensor | None:
        counts = Positions(z, class_dim).counted(y, ignore_index)
        return None if counts is None else counts.any(dim=1)

    if variant == "exact":
        number = partial(_exact_number, class_dim=class_dim)
    return Cotangents(vectors, number, counted, as_asked=variant == "sample")


def output_cotangents(output: str, mask_value: float | None = None) -> Cotangents:
    """The cotangents of MAS: the gradient of ‖z‖², of its mean over the outputs in use, or of every output.

    Args:
        output: "squared_norm", "mean_square" or "vector".
        mask_value: what unused outputs are overwritten with; outputs that equal it do not count in the mean.

    Raises:
        ValueError: an unknown ``output``.
    """
    if output not in OUTPUTS:
        raise ValueError(f"output is {output!r}; allowed: {', '.join(OUTPUTS)}")
    if output == "vector":
        return Cotangents(_every_output, _outputs_a_sample)
    return Cotangents(partial(_squared_norm, mean=output == "mean_square", mask_value=mask_value), lambda _z: 1)


# ------------------------------------------------------------------ categorical


class Positions:
    """Outputs of a categorical likelihood as (samples, classes, positions): an image's pixels, a sequence's tokens.

    Attributes:
        logits: shape (samples, classes, positions), in at least float32.

    Raises:
        ValueError: the outputs have no such dimension.
    """

    def __init__(self, z: Tensor, class_dim: int) -> None:
        if z.ndim < 2 or not (1 <= class_dim < z.ndim or 1 - z.ndim <= class_dim < 0):
            raise ValueError(
                "a categorical likelihood needs outputs of shape (samples, classes), (samples, classes, positions...) "
                f"or, with class_dim=-1, (samples, positions..., classes); got {tuple(z.shape)} with "
                f"class_dim={class_dim}"
            )
        self._class_dim, self._dtype = class_dim, z.dtype
        moved = z.movedim(class_dim, 1)
        self._shape = moved.shape
        self.logits = moved.flatten(2) if z.ndim > 2 else moved.unsqueeze(2)
        self.logits = self.logits.to(torch.promote_types(z.dtype, torch.float32))

    @property
    def _of_targets(self) -> torch.Size:
        return torch.Size((self._shape[0], *self._shape[2:]))

    def counted(self, y: Any, ignore_index: int) -> Tensor | None:
        """Which positions count, shape (samples, positions); None if all do, or the targets are not class labels.

        Raises:
            ValueError: labels of positions have another shape than the positions of the outputs.
        """
        if not isinstance(y, Tensor) or y.is_floating_point():
            return None
        if y.shape != self._of_targets:
            if len(self._shape) > 2:
                self._refuse(y)
            return None
        counts = (y != ignore_index).reshape(len(y), -1).to(self.logits.device)
        return None if counts.all() else counts

    def targets(self, y: Any) -> Tensor:
        """Class labels as (samples, positions), class probabilities as (samples, classes, positions).

        Raises:
            ValueError: there are none, or their shape does not fit the outputs.
        """
        y = _targets(y, self.logits)
        if y.is_floating_point():
            return _same_shape(y, self._shape, "class probabilities").reshape(self.logits.shape).to(self.logits)
        if y.shape != self._of_targets:
            self._refuse(y)
        return y.reshape(len(y), -1)

    def _refuse(self, y: Tensor) -> None:
        hint = "; class_dim says which dimension is the classes, unpack= and forward= can shift or cut"
        raise ValueError(
            f"class labels have shape {tuple(y.shape)}, expected {tuple(self._of_targets)}"
            + (hint if len(self._shape) > 2 else "")
        )

    def back(self, v: Tensor) -> Tensor:
        """A cotangent of :attr:`logits` as one of the outputs."""
        return v.reshape(self._shape).movedim(1, self._class_dim).to(self._dtype)


def _exact_number(z: Tensor, class_dim: int) -> int:
    positions = Positions(z, class_dim).logits.shape
    return positions[2] * max(1, positions[1] - 1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part/whole with 0/0 := 0."""
    return torch.where(whole == 0, 0, part / whole)


def _score(labels: Tensor, pi: Tensor, counts: Tensor | None) -> Tensor:
    """e_y − π where positions count, else 0. 1 − π_y is the sum of the other π, so that nothing cancels."""
    at = labels.unsqueeze(1)
    others = pi.scatter(1, at, 0).sum(dim=1, keepdim=True)
    score = (-pi).scatter_(1, at, others)
    return score if counts is None else score * counts.unsqueeze(1)


def _exact_categorical(pi: Tensor, _y: Any, counts: Tensor | None, _generator: Generator) -> Iterator[Tensor]:
    """The columns of the Cholesky factor of the score's covariance diag(π) − ππᵀ, which has rank C − 1.

    With s_k = Σ_{j>k} π_j,  v_k = √(π_k s_k/s_{k−1}) (e_k − π_{>k}/s_k)  for k = 1…C − 1 (0/0 := 0): one label after
    the other is drawn or passed over. Every s is a sum of what it stands for, so that nothing cancels.
    """
    for p in range(pi.shape[2]):
        here = pi[:, :, p]
        tail = here.flip(1).cumsum(dim=1).flip(1)  # s_{k−1} at k
        after = F.pad(tail[:, 1:], (0, 1))  # s_k at k
        deviation = (here * _ratio(after, tail)).sqrt()
        if counts is not None:
            deviation = deviation * counts[:, p, None]
        for k in deviation.any(dim=0).nonzero().flatten().tolist():  # a masked logit has π = 0 and costs nothing
            v = torch.zeros_like(pi)
            v[:, k, p] = deviation[:, k]
            v[:, k + 1 :, p] = -deviation[:, k, None] * _ratio(here[:, k + 1 :], after[:, k, None])
            yield v


def _sample_categorical(
    pi: Tensor, _y: Any, counts: Tensor | None, generator: Generator, *, draws: int
) -> Iterator[Tensor]:
    """(e_ŷ − π)/√S with ŷ ~ π, by inverting the distribution function, which never gives a label of probability 0."""
    cumulative = pi.cumsum(dim=1)
    total = cumulative[:, -1]
    last = (cumulative < total.unsqueeze(1)).sum(dim=1)
    for uniform in _uniform((pi.shape[0], pi.shape[2]), draws, generator, pi):
        labels = (cumulative <= (uniform * total).unsqueeze(1)).sum(dim=1).minimum(last)
        yield _score(labels, pi, counts) / draws**0.5


def _predicted_categorical(pi: Tensor, _y: Any, counts: Tensor | None, _generator: Generator) -> Iterator[Tensor]:
    yield _score(pi.argmax(dim=1), pi, counts)


def _empirical_categorical(pi: Tensor, y: Any, counts: Tensor | None, _generator: Generator) -> Iterator[Tensor]:
    if y.is_floating_point():  # class probabilities: ∇ Σ_c y_c log π_c
        yield y - pi * y.sum(dim=1, keepdim=True)
        return
    if counts is not None:
        y = torch.where(counts, y, 0)
    if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < pi.shape[1]:
        raise ValueError(
            f"class labels range from {int(y.min())} to {int(y.max())}; allowed: 0 to {pi.shape[1] - 1}, "
            "the model's outputs, and ignore_index"
        )
    yield _score(y.long(), pi, counts)


# ---------------------------------------------------------- Gaussian, Bernoulli


def _outputs_a_sample(z: Tensor) -> int:
    return z.numel() // max(1, z.shape[0])


def _every_output(z: Tensor, _y: Any, _generator: Generator) -> Iterator[Tensor]:
    """e_c for every output c: the exact Fisher of a Gaussian with σ = 1, and MAS of the whole output vector."""
    for c in range(_outputs_a_sample(z)):
        v = torch.zeros_like(z, memory_format=torch.contiguous_format)
        v.view(z.shape[0], -1)[:, c] = 1
        yield v


def _sample_gaussian(z: Tensor, _y: Any, generator: Generator, *, draws: int) -> Iterator[Tensor]:
    shape = (z.shape[0], math.prod(z.shape[1:]))
    for normal in _uniform(shape, draws, generator, z, lambda u: torch.special.ndtri(u.clamp(min=1e-300))):
        yield normal.view(z.shape) / draws**0.5


def _empirical_gaussian(z: Tensor, y: Any, _generator: Generator) -> Iterator[Tensor]:
    yield _same_shape(_targets(y, z), z.shape, "targets").to(z) - z


def _exact_bernoulli(z: Tensor, _y: Any, _generator: Generator) -> Iterator[Tensor]:
    """√(π_c (1 − π_c)) e_c."""
    wide = z.to(torch.promote_types(z.dtype, torch.float32))
    deviation = (wide.sigmoid() * (-wide).sigmoid()).sqrt().to(z.dtype)  # 1 − π would cancel
    for v in _every_output(z, None, _generator):
        yield v * deviation


def _sample_bernoulli(z: Tensor, _y: Any, generator: Generator, *, draws: int) -> Iterator[Tensor]:
    pi = z.to(torch.promote_types(z.dtype, torch.float32)).sigmoid()
    shape = (z.shape[0], math.prod(z.shape[1:]))
    for uniform in _uniform(shape, draws, generator, pi):
        yield _bernoulli_score((uniform.view(z.shape) < pi).to(pi), z) / draws**0.5


def _predicted_bernoulli(z: Tensor, _y: Any, _generator: Generator) -> Iterator[Tensor]:
    yield _bernoulli_score((z > 0).to(z), z)


def _empirical_bernoulli(z: Tensor, y: Any, _generator: Generator) -> Iterator[Tensor]:
    yield _bernoulli_score(_same_shape(_targets(y, z), z.shape, "targets"), z)


def _bernoulli_score(y: Tensor, z: Tensor) -> Tensor:
    """y − π, as y (1 − π) − (1 − y) π, so that nothing cancels."""
    wide = z.to(torch.promote_types(z.dtype, torch.float32))
    y = y.to(wide)
    return (y * (-wide).sigmoid() - (1 - y) * wide.sigmoid()).to(z.dtype)


# -------------------------------------------------------------------------- MAS


def _squared_norm(
    z: Tensor, _y: Any, _generator: Generator, *, mean: bool, mask_value: float | None
) -> Iterator[Tensor]:
    """2z, the gradient of ‖z‖² (Aljundi et al. 2018, section 4.2), or 2z/C with C the outputs in use."""
    v = 2 * z
    if mean:
        rows = v.reshape(v.shape[0], -1)
        used = torch.full_like(rows[:, :1], rows.shape[1])
        if mask_value is not None:
            used = (z.reshape(rows.shape) != mask_value).sum(dim=1, keepdim=True).clamp(min=1)
        v = (rows / used).view(z.shape)
    yield v


# ------------------------------------------------------------ draws and targets


def _uniform(
    shape: tuple[int, int],
    draws: int,
    generator: Generator,
    like: Tensor,
    transform: Callable[[Tensor], Tensor] = lambda u: u,
) -> Iterator[Tensor]:
    """Uniform numbers of ``shape`` for each draw, in the type and on the device of ``like``, drawn sample by sample.

    A sample then meets the same numbers however its batch is cut to fit the memory. They are drawn and transformed in
    float64 on the CPU, since not every device has that type.
    """
    numbers = torch.rand((shape[0], draws, *shape[1:]), generator=generator, dtype=torch.float64, device="cpu")
    for d in range(draws):
        yield transform(numbers[:, d]).to(like.dtype).to(like.device)


def _targets(y: Any, z: Tensor) -> Tensor:
    if y is None:
        raise ValueError("this Fisher variant needs targets, but the data has none; exact, sample and predicted do not")
    if not isinstance(y, Tensor):
        raise ValueError(
            f"this Fisher variant needs targets in a tensor, got a {type(y).__name__}; unpack= can make one"
        )
    return y.to(z.device)


def _same_shape(y: Tensor, shape: torch.Size, what: str) -> Tensor:
    if y.shape != shape:
        raise ValueError(f"{what} have shape {tuple(y.shape)}, but the outputs have shape {tuple(shape)}")
    return y


_FISHER: dict[tuple[str, str], Callable[..., Iterator[Tensor]]] = {
    ("exact", "categorical"): _exact_categorical,
    ("sample", "categorical"): _sample_categorical,
    ("predicted", "categorical"): _predicted_categorical,
    ("empirical", "categorical"): _empirical_categorical,
    ("batched", "categorical"): _empirical_categorical,
    ("exact", "gaussian"): _every_output,
    ("sample", "gaussian"): _sample_gaussian,
    ("empirical", "gaussian"): _empirical_gaussian,
    ("batched", "gaussian"): _empirical_gaussian,
    ("exact", "bernoulli"): _exact_bernoulli,
    ("sample", "bernoulli"): _sample_bernoulli,
    ("predicted", "bernoulli"): _predicted_bernoulli,
    ("empirical", "bernoulli"): _empirical_bernoulli,
    ("batched", "bernoulli"): _empirical_bernoulli,
}
