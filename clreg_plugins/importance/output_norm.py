"""The importance of Memory Aware Synapses, usable without Avalanche."""

from torch import Generator, nn
from torch.utils.data import DataLoader, Dataset

from clreg_plugins.importance.checks import at_least, boolean, one_of
from clreg_plugins.importance.cotangents import OUTPUTS, output_cotangents
from clreg_plugins.importance.distributed import processes
from clreg_plugins.importance.jacobian import Importance, jacobian_moments
from clreg_plugins.importance.model import Forward, default_forward
from clreg_plugins.importance.samples import batches


def mas_importance(
    model: nn.Module,
    data: DataLoader | Dataset,
    *,
    output: str = "squared_norm",
    per_sample: bool = True,
    n_samples: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    mask_value: float | None = None,
    forward: Forward = default_forward,
    num_workers: int = 0,
    max_bytes: int = 2**30,
    path: str = "auto",
    distributed: bool = False,
) -> Importance:
    """How much the output of ``model`` changes with each parameter; needs no labels.

    ``Ω_i = 1/N Σ_n |∂‖z_n‖²/∂θ_i|`` (Aljundi et al. 2018, section 4.2), or the forms below.

    Args:
        model: any module whose output has the samples along its first dimension.
        data: as for :func:`fisher_diagonal`; targets are not read and may be absent.
        output: "squared_norm" takes ‖z‖²; "mean_square" the mean of z² over the outputs in use; "vector" the norm
            of the gradients of all outputs, ``‖∂z_n/∂θ_i‖`` (equation 3).
        per_sample: False makes the gradient of the batch mean absolute instead of each sample's (as FACIL,
            Avalanche and Hsu et al. 2018 do) and averages over batches.
        n_samples: use that many samples, drawn without replacement (of a DataLoader: its first); default all.
        batch_size: of a Dataset, samples read at a time, by default as for :func:`fisher_diagonal`. It changes the
            result with ``per_sample=False`` alone, and is then 256 by default.
        seed: of the draw of ``n_samples``.
        mask_value: what masked outputs hold (Avalanche: -1000); they do not count in "mean_square".
        forward: as for :func:`fisher_diagonal`, like the arguments that follow it.
        num_workers: of the DataLoader made for a Dataset.
        max_bytes: bound for the pass's own memory, 1 GiB by default.
        path: "auto", or "vectorised" or "one_at_a_time" to force the general path.
        distributed: share the batches among the processes of ``torch.distributed``.

    Returns:
        A dict from parameter name to importance, shape of the parameter; its ``paths`` says how each was computed.

    Raises:
        ValueError: an option outside what is allowed, or empty data.
        TypeError: data of an unknown kind.
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
    at_least("n_samples", n_samples, 1)
    at_least("batch_size", batch_size, 1)
    at_least("max_bytes", max_bytes, 1)
    shard, reduce = processes(distributed)
    read = batches(
        data,
        batch_size=batch_size,
        batches_matter=not per_sample or distributed,
        n_samples=n_samples,
        num_workers=num_workers,
        generator=Generator().manual_seed(seed),
    )
    return jacobian_moments(
        model,
        read,
        output_cotangents(output, mask_value),
        power=1,
        forward=forward,
        seed=seed,
        batch_mean=not per_sample,
        max_bytes=max_bytes,
        path=path,
        shard=shard,
        reduce=reduce,
    )
