"""The vectors v_nk that are pulled back through the model, one function for each row of the table of importances.

Each function takes the outputs ``z`` (samples along the first dimension, no gradient attached), the targets ``y``
or None, and a CPU generator, and yields K cotangents of the shape of ``z``. With J_n the Jacobian of sample n,

    importance_i = 1/N Σ_n ( Σ_k (v_nkᵀ J_n)_i² )^(p/2),

with p = 2 for Fisher information and p = 1 for the sensitivity of MAS.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from torch import Generator, Tensor

from clreg_plugins.importance.engine.cotangents import bernoulli, categorical, gaussian
from clreg_plugins.importance.engine.cotangents.draws_and_targets import bytes_of_draws
from clreg_plugins.importance.engine.cotangents.outputs import every_output, outputs_a_sample, squared_norm

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
        as_asked: the bound is a number that the caller gave.
        extra_bytes: ``z ->`` what the making of all K takes for each sample, beside themselves.
    """

    vectors: Vectors
    number: Callable[[Tensor], int]
    counted: Callable[[Tensor, Tensor | None], Tensor | None] = lambda _z, _y: None
    as_asked: bool = False
    extra_bytes: Callable[[Tensor], int] = lambda _z: 0


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
    numbers = {"exact": outputs_a_sample, "sample": lambda _z: draws}
    number = numbers.get(variant, lambda _z: 1)

    def extra_bytes(z: Tensor) -> int:
        if variant != "sample":
            return 0
        outputs = outputs_a_sample(z)
        drawn = categorical.Positions(z, class_dim).logits.shape[2] if likelihood == "categorical" else outputs
        return bytes_of_draws(draws, drawn, outputs)

    found = Cotangents(function, number, as_asked=variant == "sample", extra_bytes=extra_bytes)
    if likelihood != "categorical":
        return found

    def vectors(z: Tensor, y: Tensor | None, generator: Generator) -> Iterator[Tensor]:
        positions = categorical.Positions(z, class_dim)
        counts = positions.counted(y, ignore_index)
        targets = positions.targets(y) if variant in ("empirical", "batched") else None
        for v in function(positions.logits.softmax(dim=1), targets, counts, generator):
            yield positions.back(v)

    def counted(z: Tensor, y: Tensor | None) -> Tensor | None:
        counts = categorical.Positions(z, class_dim).counted(y, ignore_index)
        return None if counts is None else counts.any(dim=1)

    if variant == "exact":
        number = partial(categorical.exact_number, class_dim=class_dim)
    return found._replace(vectors=vectors, number=number, counted=counted)


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
        return Cotangents(every_output, outputs_a_sample)
    return Cotangents(partial(squared_norm, mean=output == "mean_square", mask_value=mask_value), lambda _z: 1)


_FISHER: dict[tuple[str, str], Callable[..., Iterator[Tensor]]] = {
    ("exact", "categorical"): categorical.exact,
    ("sample", "categorical"): categorical.sample,
    ("predicted", "categorical"): categorical.predicted,
    ("empirical", "categorical"): categorical.empirical,
    ("batched", "categorical"): categorical.empirical,
    ("exact", "gaussian"): every_output,
    ("sample", "gaussian"): gaussian.sample,
    ("empirical", "gaussian"): gaussian.empirical,
    ("batched", "gaussian"): gaussian.empirical,
    ("exact", "bernoulli"): bernoulli.exact,
    ("sample", "bernoulli"): bernoulli.sample,
    ("predicted", "bernoulli"): bernoulli.predicted,
    ("empirical", "bernoulli"): bernoulli.empirical,
    ("batched", "bernoulli"): bernoulli.empirical,
}
