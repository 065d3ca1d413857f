"""The diagonal of the Fisher information, usable without Avalanche."""

from torch import Generator, nn
from torch.utils.data import DataLoader, Dataset

from clreg_plugins.importance.checks import at_least, one_of
from clreg_plugins.importance.cotangents import LIKELIHOODS, VARIANTS, fisher_cotangents
from clreg_plugins.importance.distributed import processes
from clreg_plugins.importance.jacobian import Importance, jacobian_moments
from clreg_plugins.importance.model import Forward, default_forward
from clreg_plugins.importance.samples import batches


def fisher_diagonal(
    model: nn.Module,
    data: DataLoader | Dataset,
    *,
    variant: str = "exact",
    likelihood: str = "categorical",
    n_samples: int | None = None,
    draws: int = 1,
    batch_size: int | None = None,
    seed: int = 0,
    forward: Forward = default_forward,
    num_workers: int = 0,
    max_bytes: int = 2**30,
    path: str = "auto",
    distributed: bool = False,
) -> Importance:
    """The diagonal Fisher information of ``model`` at its present parameters.

    ``F_i = 1/N Σ_n E_{y ~ p(y|x_n)} [(∂ log p(y|x_n)/∂θ_i)²]``, the expectation taken as ``variant`` says. See
    Kirkpatrick et al. 2017 and, on the variants, van de Ven 2025 (arXiv:2502.11756).

    Args:
        model: any module whose output has the samples along its first dimension: logits (categorical, shape
            (samples, classes); Bernoulli, any shape) or means (Gaussian with σ = 1, any shape). Log-probabilities
            serve as logits too. Measured in eval mode; the model, its gradients and its modes are left as they were.
        data: a DataLoader, a Dataset or an Avalanche dataset that yields inputs, or tuples (inputs, targets, …,
            task labels).
        variant: "exact" takes the expectation over every class; "sample" over labels drawn from the model;
            "predicted" the most likely label; "empirical" the true target; "batched" squares the gradient of batch
            means of the empirical log-likelihood (what Avalanche and others compute; it is not the Fisher).
        likelihood: "categorical", "gaussian" or "bernoulli".
        n_samples: use that many samples, drawn without replacement (of a DataLoader: its first); default all.
        draws: labels drawn for each sample by "sample".
        batch_size: of a Dataset, samples read at a time. By default 256 for "batched", whose result depends on it, and
            ``distributed``; else batches of 256, put together up to 1024 samples or 32 MiB of inputs.
        seed: of every random draw here; the global generators are not touched. Which labels "sample" draws follows
            from it and the batches.
        forward: how to call the model; by default with task labels if its forward names ``task_labels``.
        num_workers: of the DataLoader made for a Dataset.
        max_bytes: bound for the pass's own memory, 1 GiB by default.
        path: "auto", or "vectorised" or "one_at_a_time" to force the general path.
        distributed: share the batches among the processes of ``torch.distributed``; each gets the whole result.

    Returns:
        A dict from parameter name to importance, shape of the parameter; its ``paths`` says how each was computed.

    Raises:
        ValueError: an option outside what is allowed, empty data, missing or unfit targets.
        TypeError: data of an unknown kind.
        FloatingPointError: an importance is NaN or infinite.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> data = torch.utils.data.TensorDataset(torch.randn(8, 3), torch.randint(0, 2, (8,)))
        >>> {name: tuple(value.shape) for name, value in fisher_diagonal(model, data).items()}
        {'weight': (2, 3), 'bias': (2,)}
    """
    one_of("variant", variant, VARIANTS)
    one_of("likelihood", likelihood, LIKELIHOODS)
    at_least("n_samples", n_samples, 1)
    at_least("draws", draws, 1)
    at_least("batch_size", batch_size, 1)
    at_least("max_bytes", max_bytes, 1)
    cotangents = fisher_cotangents(variant, likelihood, draws)
    shard, reduce = processes(distributed)
    read = batches(
        data,
        batch_size=batch_size,
        batches_matter=variant == "batched" or distributed,
        n_samples=n_samples,
        num_workers=num_workers,
        generator=Generator().manual_seed(seed),
    )
    return jacobian_moments(
        model,
        read,
        cotangents,
        power=2,
        forward=forward,
        seed=seed,
        batch_mean=variant == "batched",
        max_bytes=max_bytes,
        path=path,
        shard=shard,
        reduce=reduce,
    )
