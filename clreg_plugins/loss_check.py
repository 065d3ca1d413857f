"""Whether a loss stays finite, seen without a step that waits for a device or for other processes."""

import math

import torch
import torch.distributed as dist
from torch import Tensor


class LossCheck:
    """Looks at each loss of an epoch: at once on a CPU, else through a flag that the end of the epoch reads."""

    def __init__(self) -> None:
        self._flag: Tensor | None = None  # 0, or NaN from the first loss on that is not finite

    def begin_epoch(self) -> None:
        """Forget the epoch before."""
        self._flag = None

    def watch(self, loss: Tensor) -> None:
        """Look at the loss of a step.

        Raises:
            FloatingPointError: it is on a CPU, in a single process, and not finite.
        """
        loss = loss.detach()
        if loss.device.type == "cpu" and not _shared():
            # as a number: operations on a tensor of one entry are 1% of a small model's step
            value = loss.item() if loss.numel() == 1 else loss.sum().item()
            if not math.isfinite(value):
                raise FloatingPointError(f"the loss is {value}; it must be finite")
            return
        self._flag = loss * 0 if self._flag is None else torch.add(self._flag, loss, alpha=0)

    def failed(self, device: torch.device) -> bool:
        """Whether a loss of this epoch was not finite, in any process: one that raised alone would leave the others
        waiting for it.

        Args:
            device: where processes exchange tensors.
        """
        failed = self._flag is not None and not bool(torch.isfinite(self._flag).all())
        if not _shared():
            return failed
        flag = torch.tensor(float(failed), device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)

    def __getstate__(self) -> dict[str, None]:
        return {"_flag": None}


def _shared() -> bool:
    """Whether there are other processes to tell."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
