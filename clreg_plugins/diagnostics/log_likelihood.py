"""The loss whose increase a quadratic approximates."""

import torch.nn.functional as F
from torch import Generator, Tensor

from clreg_plugins.importance.engine.batch import Batch
from clreg_plugins.importance.engine.cotangents import Positions, fisher_cotangents


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
        """The loss at outputs ``z`` of a batch with targets, a scalar."""
        z, y = z.cpu().double(), batch.targets.cpu()
        if self.likelihood == "gaussian":
            return 0.5 * F.mse_loss(z, y.to(z), reduction="sum")
        if self.likelihood == "bernoulli":
            return F.binary_cross_entropy_with_logits(z, y.to(z), reduction="sum")
        positions = Positions(z, self.class_dim)
        y = positions.targets(y)
        ignored = {} if y.is_floating_point() else {"ignore_index": self.ignore_index}
        return F.cross_entropy(positions.logits, y if y.is_floating_point() else y.long(), reduction="sum", **ignored)
