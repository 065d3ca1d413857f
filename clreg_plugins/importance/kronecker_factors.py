"""Kronecker factors of the Fisher information, usable without Avalanche."""

from typing import Unpack

from torch import nn
from torch.utils.data import DataLoader, Dataset

from clreg_plugins.checks import one_of, whole
from clreg_plugins.factors import KroneckerFactors
from clreg_plugins.importance.engine.cotangents import VARIANTS
from clreg_plugins.importance.engine.factors import MAX_WIDTH, WEIGHT_SHARING, FactorOptions
from clreg_plugins.importance.engine.run import measure
from clreg_plugins.importance.fisher import checked_cotangents
from clreg_plugins.importance.options import PASS_DEFAULTS, PassOptions, checked

FACTOR_DEFAULTS = {name: value for name, value in PASS_DEFAULTS.items() if name != "path"}
FACTOR_VARIANTS = tuple(variant for variant in VARIANTS if variant != "batched")


def kronecker_factors(
    model: nn.Module,
    data: DataLoader | Dataset,
    *,
    variant: str = "exact",
    likelihood: str = "categorical",
    draws: int = 1,
    class_dim: int = 1,
    ignore_index: int = -100,
    weight_sharing: str = "expand",
    max_width: int = MAX_WIDTH,
    **options: Unpack[PassOptions],
) -> KroneckerFactors:
    """Kronecker-factored Fisher information of ``model`` at its present parameters, layer by layer.

    The block of a layer with inputs a (bias: a 1 in front) and output gradients g_k is taken as ``A ⊗ G`` with
    ``A = E[a aᵀ]`` and ``G = E[Σ_k g_k g_kᵀ]`` (Martens and Grosse 2015), so that a change Δ of the weight, bias in
    front, has ``Δᵀ F Δ ≈ tr(Δᵀ G Δ A)``. The cotangents k are those of :func:`fisher_diagonal`.

    ``nn.Linear`` (the projections of attention, too), convolutions with groups, and ``nn.Embedding`` have factors,
    if the layer is called once in a forward pass. Other parameters, and layers that are called several times or that a
    model changes behind PyTorch's back, keep the diagonal: ``paths`` says which.

    Args:
        model: as for :func:`fisher_diagonal`, like every argument not named here.
        data: see there.
        variant: "exact", "sample", "predicted" or "empirical". (The gradients of batch means have no such factors.)
        likelihood: see there.
        draws: see there.
        class_dim: see there.
        ignore_index: see there. A counts the inputs of every position of a sample that has one that counts.
        weight_sharing: for layers at several positions of a sample (convolutions, tokens), "expand" takes positions as
            if they were samples, "reduce" takes the mean of a and the sum of g over them (Eschenhagen et al. 2023,
            arXiv:2311.00636). Embeddings always expand.
        max_width: rows of the widest factor. A layer that needs a wider one, such as the output of a language model,
            keeps the diagonal; 10,000 rows take 400 MB in float32, and a pass holds those of one piece besides the sum.
        **options: see :class:`PassOptions`, without ``path``.

    Returns:
        A dict from layer name to :class:`Factors`, with the diagonal of the other parameters in its ``diagonal``.

    Raises:
        ValueError, TypeError, FloatingPointError: as for :func:`fisher_diagonal`.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2))
        >>> data = torch.utils.data.TensorDataset(torch.randn(8, 3), torch.randint(0, 2, (8,)))
        >>> layer = kronecker_factors(model, data)["0"]
        >>> tuple(layer.inputs.shape), tuple(layer.outputs.shape)
        ((1, 4, 4), (1, 2, 2))
    """
    cotangents = checked_cotangents(FACTOR_VARIANTS, variant, likelihood, draws, class_dim, ignore_index)
    one_of("weight_sharing", weight_sharing, WEIGHT_SHARING)
    whole("max_width", max_width, 1)
    return measure(
        model,
        data,
        cotangents,
        power=2,
        batch_mean=False,
        options=checked(options, FACTOR_DEFAULTS, "kronecker_factors") | {"path": "auto"},
        factors=FactorOptions(weight_sharing, max_width),
    )
