"""The importance of Memory Aware Synapses, usable without Avalanche."""

from typing import Unpack

from torch import nn
from torch.utils.data import DataLoader, Dataset

from clreg_plugins.checks import boolean, one_of, within
from clreg_plugins.factors import Importance
from clreg_plugins.importance.engine.cotangents import OUTPUTS, output_cotangents
from clreg_plugins.importance.engine.run import measure
from clreg_plugins.importance.options import PASS_DEFAULTS, PassOptions, checked


def mas_importance(
    model: nn.Module,
    data: DataLoader | Dataset,
    *,
    output: str = "squared_norm",
    per_sample: bool = True,
    mask_value: float | None = None,
    **options: Unpack[PassOptions],
) -> Importance:
    """How much the output of ``model`` changes with each parameter; needs no labels.

    ``Ω_i = 1/N Σ_n |∂‖z_n‖²/∂θ_i|`` (Aljundi et al. 2018, section 4.2), or the forms below.

    Args:
        model: any module whose output has the samples along its first dimension, of any shape. Outputs that are not to
            count, such as those of padding, are multiplied by 0 in ``forward``.
        data: as for :func:`fisher_diagonal`; targets are not read and may be absent.
        output: "squared_norm" takes ‖z‖²; "mean_square" the mean of z² over the outputs in use; "vector" the norm
            of the gradients of all outputs, ``‖∂z_n/∂θ_i‖`` (equation 3).
        per_sample: False makes the gradient of the batch mean absolute instead of each sample's (as FACIL,
            Avalanche and Hsu et al. 2018 do) and averages over batches.
        mask_value: what masked outputs hold (Avalanche: -1000); they do not count in "mean_square".
        **options: see :class:`PassOptions`. ``batch_size`` changes the result with ``per_sample=False`` alone.

    Returns:
        A dict from parameter name to importance, shape of the parameter; its ``paths`` says how each was computed.

    Raises:
        ValueError: an option outside what is allowed, empty data, outputs without a graph, a model that mixes the
            samples of a batch.
        TypeError: data of an unknown kind, an unknown option.
        FloatingPointError: an importance is NaN or infinite.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> unlabelled = torch.utils.data.TensorDataset(torch.randn(8, 3))
        >>> sorted(mas_importance(model, unlabelled))
        ['bias', 'weight']
    """
    one_of("output", output, OUTPUTS)
    boolean("per_sample", per_sample)
    if mask_value is not None:
        within("mask_value", mask_value, also=", or None (no output is masked)")
    return measure(
        model,
        data,
        output_cotangents(output, mask_value),
        power=1,
        batch_mean=not per_sample,
        options=checked(options, PASS_DEFAULTS, "mas_importance"),
    )
