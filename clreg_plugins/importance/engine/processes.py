"""Sharing a pass among the processes of ``torch.distributed``."""

from collections.abc import Callable

import torch.distributed as dist
from torch import Tensor


def processes(
    distributed: bool,
) -> tuple[tuple[int, int], Callable[[Tensor], None] | None]:
    """(rank, number of processes) and a sum over processes; one process and no sum where there is nothing to share.

    Raises:
        ValueError: sharing is asked for but ``torch.distributed`` is not initialised.
    """
    if not distributed:
        return (0, 1), None
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError("distributed is True, but torch.distributed is not initialised; allowed here: False")
    return (dist.get_rank(), dist.get_world_size()), lambda tensor: dist.all_reduce(tensor)
