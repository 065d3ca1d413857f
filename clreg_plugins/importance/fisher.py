"""The diagonal of the Fisher information, usable without Avalanche."""

from collections.abc import Sequence
from typing import Unpack

from torch import nn
from torch.utils.data import DataLoader, Dataset

from clreg_plugins.checks import one_of, whole
from clreg_plugins.factors import Importance
from clreg_plugins.importance.engine.cotangents import LIKELIHOODS, VARIANTS, Cotangents, fisher_cotangents
from clreg_plugins.importance.engine.run import measure
from clreg_plugins.importance.options import PASS_DEFAULTS, PassOptions, checked

MAX_DRAWS = 2**16
"""Draws are made for all samples of a batch at once: for 1024 samples these take 512 MiB."""


def fisher_diagonal(
    model: nn.Module,
    data: DataLoader | Dataset,
    *,
    variant: str = "exact",
    likelihood: str = "categorical",
    draws: int = 1,
    class_dim: int = 1,
    ignore_index: int = -100,
    **options: Unpack[PassOptions],
) -> Importance:
    """The diagonal Fisher information of ``model`` at its present parameters.

    ``F_i = 1/N Σ_n E_{y ~ p(y|x_n)} [(∂ log p(y|x_n)/∂θ_i)²]``, the expectation taken as ``variant`` says. See
    Kirkpatrick et al. 2017 and, on the variants, van de Ven 2025 (arXiv:2502.11756).

    A sample is one item of the data: an image, a sequence. If its output has several positions (pixels, tokens),
    its log-likelihood is the sum over them, and their labels are independent given the input.

    Args:
        model: any module whose output has the samples along its first dimension: logits of a categorical likelihood,
            shape (samples, classes), (samples, classes, positions...) or, with ``class_dim=-1``, (samples,
            positions..., classes); logits of a Bernoulli likelihood or means of a Gaussian one with σ = 1, any shape.
            Log-probabilities serve as logits too. It is measured in eval mode, in the precision of its parameters, and
            it, its gradients and the random state of the process are left as they were.
        data: a DataLoader, a Dataset or an Avalanche dataset of inputs, (inputs, targets), or dicts; see ``unpack``.
        variant: "exact" takes the expectation over every class (of every position: as many backward passes);
            "sample" over labels drawn from the model, of all positions at once; "predicted" the most likely labels;
            "empirical" the true targets; "batched" squares the gradient of batch means of the empirical log-likelihood
            (what Avalanche and others compute; it is not the Fisher).
        likelihood: "categorical", "gaussian" or "bernoulli".
        draws: labels drawn for each sample by "sample", at most 65,536. With up to 32 outputs, more draws
            than outputs cost no further backward passes.
        class_dim: dimension of the classes in a categorical likelihood's outputs.
        ignore_index: target of positions that do not count, as in PyTorch's cross-entropy; with class labels at hand,
            in every variant. A sample without any that counts is no sample: N is the number of the others.
        **options: see :class:`PassOptions`.

    Returns:
        A dict from parameter name to importance, shape of the parameter; its ``paths`` says how each was computed.

    Raises:
        ValueError: an option outside what is allowed, empty data, missing or unfit targets, outputs without a graph or
            of another shape, a model that mixes the samples of a batch.
        TypeError: data of an unknown kind, an unknown option.
        FloatingPointError: an importance is NaN or infinite.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> data = torch.utils.data.TensorDataset(torch.randn(8, 3), torch.randint(0, 2, (8,)))
        >>> {name: tuple(value.shape) for name, value in fisher_diagonal(model, data).items()}
        {'weight': (2, 3), 'bias': (2,)}
    """
    cotangents = checked_cotangents(VARIANTS, variant, likelihood, draws, class_dim, ignore_index)
    return measure(
        model,
        data,
        cotangents,
        power=2,
        batch_mean=variant == "batched",
        options=checked(options, PASS_DEFAULTS, "fisher_diagonal"),
    )


def checked_cotangents(
    allowed: Sequence[str],
    variant: str,
    likelihood: str,
    draws: int,
    class_dim: int,
    ignore_index: int = -100,
    name: str = "variant",
) -> Cotangents:
    """The cotangents of a Fisher, from arguments as of :func:`fisher_diagonal`; ``name`` is that of ``variant``."""
    one_of(name, variant, allowed)
    one_of("likelihood", likelihood, LIKELIHOODS)
    whole("draws", draws, 1, MAX_DRAWS)
    whole("class_dim", class_dim, -64, 64)
    whole("ignore_index", ignore_index, -(2**63))
    return fisher_cotangents(variant, likelihood, draws, class_dim, ignore_index)
