"""The vectors v_nk that are pulled back through the model, one function for each row of the table of importances.

Each function takes the outputs ``z`` (samples along the first dimension, no gradient attached), the targets ``y``
or None, and a CPU generator, and yields K cotangents of the shape of ``z``. With J_n the Jacobian of sample n,

    importance_i = 1/N Σ_n ( Σ_k (v_nkᵀ J_n)_i² )^(p/2),

with p = 2 for Fisher information and p = 1 for the sensitivity of MAS.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Cotangents = Callable[[Tensor, Tensor | None, Generator], Iterator[Tensor]]

VARIANTS = ("exact", "sample", "predicted", "empirical", "batched")
LIKELIHOODS = ("categorical", "gaussian", "bernoulli")
OUTPUTS = ("squared_norm", "mean_square", "vector")


def fisher_cotangents(variant: str, likelihood: str, draws: int = 1) -> Cotangents:
    """The cotangents of one variant of the Fisher information under one likelihood.

    Raises:
        ValueError: an unknown variant or likelihood, or "predicted" with a Gaussian likelihood, where the most
            likely target is the output itself and the score is zero.
    """
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
    return partial(function, draws=draws) if variant == "sample" else function


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
        return _every_output
    return partial(_squared_norm, mean=output == "mean_square", mask_value=mask_value)


# ------------------------------------------------------------------ categorical


def _probabilities(z: Tensor) -> Tensor:
    if z.ndim != 2:
        raise ValueError(f"a categorical likelihood needs outputs of shape (samples, classes), got {tuple(z.shape)}")
    return z.softmax(dim=1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part/whole with 0/0 := 0."""
    return torch.where(whole == 0, 0, part / whole)


def _one_hot(labels: Tensor, z: Tensor) -> Tensor:
    return torch.zeros_like(z).scatter_(1, labels.view(-1, 1), 1)


def _exact_categorical(z: Tensor, _y: Tensor | None, _generator: Generator) -> Iterator[Tensor]:
    """The columns of the Cholesky factor of the score's covariance diag(π) − ππᵀ, which has rank C − 1.

    With s_k = Σ_{j>k} π_j,  v_k = √(π_k s_k/s_{k−1}) (e_k − π_{>k}/s_k)  for k = 1…C − 1 (0/0 := 0): one label after
    the other is drawn or passed over. Every s is a sum of what it stands for, so that nothing cancels.
    """
    pi = _probabilities(z.to(torch.promote_types(z.dtype, torch.float32)))
    tail = pi.flip(1).cumsum(dim=1).flip(1)  # s_{k−1} at k
    after = F.pad(tail[:, 1:], (0, 1))  # s_k at k
    deviation = (pi * _ratio(after, tail)).sqrt()
    for k in deviation.any(dim=0).nonzero().flatten().tolist():  # a masked logit has π = 0 and costs nothing
        v = torch.zeros_like(z)
        v[:, k] = deviation[:, k]
        v[:, k + 1 :] = -deviation[:, k, None] * _ratio(pi[:, k + 1 :], after[:, k, None])
        yield v


def _sample_categorical(z: Tensor, _y: Tensor | None, generator: Generator, *, draws: int) -> Iterator[Tensor]:
    """(e_ŷ − π)/√S with ŷ ~ π, drawn by the Gumbel-max trick, which can never draw a label of probability 0."""
    pi = _probabilities(z)
    for uniform in _uniform(z, draws, generator):
        labels = (pi.double().log() - (-uniform.log()).log()).argmax(dim=1)
        yield (_one_hot(labels, z) - pi) / draws**0.5


def _predicted_categorical(z: Tensor, _y: Tensor | None, _generator: Generator) -> Iterator[Tensor]:
    pi = _probabilities(z)
    yield _one_hot(z.argmax(dim=1), z) - pi


def _empirical_categorical(z: Tensor, y: Tensor | None, _generator: Generator) -> Iterator[Tensor]:
    pi = _probabilities(z)
    y = _targets(y, z)
    if y.is_floating_point():  # class probabilities: ∇ Σ_c y_c log π_c
        y = _same_shape(y, z)
        yield y - pi * y.sum(dim=1, keepdim=True)
        return
    if y.shape != z.shape[:1]:
        raise ValueError(f"class labels have shape {tuple(y.shape)}, expected {tuple(z.shape[:1])}")
    if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < z.shape[1]:
        raise ValueError(
            f"class labels range from {int(y.min())} to {int(y.max())}; allowed: 0 to {z.shape[1] - 1}, "
            "the model's outputs"
        )
    yield _one_hot(y.long(), z) - pi


# ---------------------------------------------------------- Gaussian, Bernoulli


def _every_output(z: Tensor, _y: Tensor | None, _generator: Generator) -> Iterator[Tensor]:
    """e_c for every output c: the exact Fisher of a Gaussian with σ = 1, and MAS of the whole output vector."""
    outputs = z.numel() // z.shape[0] if z.shape[0] else 0
    for c in range(outputs):
        v = torch.zeros_like(z)
        v.view(z.shape[0], -1)[:, c] = 1
        yield v


def _sample_gaussian(z: Tensor, _y: Tensor | None, generator: Generator, *, draws: int) -> Iterator[Tensor]:
    for uniform in _uniform(z, draws, generator):
        yield torch.special.ndtri(uniform.clamp(min=1e-300)).to(z) / draws**0.5


def _empirical_gaussian(z: Tensor, y: Tensor | None, _generator: Generator) -> Iterator[Tensor]:
    yield _same_shape(_targets(y, z), z) - z


def _exact_bernoulli(z: Tensor, _y: Tensor | None, _generator: Generator) -> Iterator[Tensor]:
    """√(π_c (1 − π_c)) e_c."""
    pi = z.sigmoid()
    deviation = (pi * (1 - pi)).sqrt()
    for v in _every_output(z, None, _generator):
        yield v * deviation


def _sample_bernoulli(z: Tensor, _y: Tensor | None, generator: Generator, *, draws: int) -> Iterator[Tensor]:
    pi = z.sigmoid()
    for uniform in _uniform(z, draws, generator):
        yield ((uniform < pi).to(z) - pi) / draws**0.5


def _predicted_bernoulli(z: Tensor, _y: Tensor | None, _generator: Generator) -> Iterator[Tensor]:
    yield (z > 0).to(z) - z.sigmoid()


def _empirical_bernoulli(z: Tensor, y: Tensor | None, _generator: Generator) -> Iterator[Tensor]:
    yield _same_shape(_targets(y, z), z) - z.sigmoid()


# -------------------------------------------------------------------------- MAS


def _squared_norm(
    z: Tensor, _y: Tensor | None, _generator: Generator, *, mean: bool, mask_value: float | None
) -> Iterator[Tensor]:
    """2z, the gradient of ‖z‖² (Aljundi et al. 2018, section 4.2), or 2z/C with C the outputs in use."""
    v = 2 * z
    if mean:
        rows = v.view(v.shape[0], -1)
        used = torch.full_like(rows[:, :1], rows.shape[1])
        if mask_value is not None:
            used = (z.reshape(rows.shape) != mask_value).sum(dim=1, keepdim=True).clamp(min=1)
        v = (rows / used).view(z.shape)
    yield v


# ------------------------------------------------------------ draws and targets


def _uniform(z: Tensor, draws: int, generator: Generator) -> Iterator[Tensor]:
    """Uniform numbers of the shape of z for each draw, drawn sample by sample.

    A sample then meets the same numbers however its batch is cut to fit the memory.
    """
    numbers = torch.rand((z.shape[0], draws, *z.shape[1:]), generator=generator, dtype=torch.float64)
    yield from numbers.to(z.device).unbind(dim=1)


def _targets(y: Tensor | None, z: Tensor) -> Tensor:
    if y is None:
        raise ValueError("this Fisher variant needs targets, but the data has none; exact, sample and predicted do not")
    return y.to(z.device)


def _same_shape(y: Tensor, z: Tensor) -> Tensor:
    if y.shape != z.shape:
        raise ValueError(f"targets have shape {tuple(y.shape)}, but the outputs have shape {tuple(z.shape)}")
    return y.to(z)


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
