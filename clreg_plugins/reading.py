"""How a plugin reads an experience to measure importance on it."""

from typing import Any

import torch.distributed as dist
from avalanche.models.utils import avalanche_forward
from torch import Tensor, nn

from clreg_plugins.importance.checks import at_least
from clreg_plugins.importance.model import Forward


class DataImportance:
    """How a plugin reads the data that it measures importance on.

    Args:
        n_samples: measure on that many samples drawn from the experience; default all.
        batch_size: samples read at a time, by default as for :func:`fisher_diagonal`; for gradients of batch means
            the strategy's ``train_mb_size`` by default.
        num_workers: of the DataLoader.
        max_bytes: bound for the pass's own memory, 1 GiB by default.
        seed: of the draws of samples and labels; experience t uses its own stream of numbers. The global random
            generators are not touched.
    """

    def __init__(
        self,
        n_samples: int | None,
        batch_size: int | None,
        num_workers: int,
        max_bytes: int,
        seed: int,
    ) -> None:
        at_least("n_samples", n_samples, 1)
        at_least("batch_size", batch_size, 1)
        at_least("num_workers", num_workers, 0)
        at_least("max_bytes", max_bytes, 1)
        at_least("seed", seed, 0)
        self.n_samples = n_samples
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.max_bytes = max_bytes
        self.seed = seed

    def arguments(self, strategy: Any, n_terms: int, *, batches_matter: bool) -> dict[str, Any]:
        """Keyword arguments for ``fisher_diagonal`` and ``mas_importance``."""
        default = strategy.train_mb_size if batches_matter else None
        return {
            "n_samples": self.n_samples,
            "batch_size": self.batch_size or default,
            "num_workers": self.num_workers,
            "max_bytes": self.max_bytes,
            "seed": self.seed + 1_000_003 * n_terms,  # a prime far above the number of batches in an experience
            "forward": _strategy_forward(strategy),
            "distributed": dist.is_available() and dist.is_initialized(),
        }


def _strategy_forward(strategy: Any) -> Forward:
    """The model's forward as Avalanche's strategies call it."""
    task_aware = strategy.experience is None or hasattr(strategy.experience, "task_labels")

    def forward(model: nn.Module, inputs: Tensor, task_labels: Tensor | None) -> Tensor:
        """The model's output on a batch."""
        if task_aware and task_labels is not None:
            return avalanche_forward(model, inputs, task_labels)
        return model(inputs)

    return forward
