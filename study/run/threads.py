"""The number of CPU threads of PyTorch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Use this many CPU threads in PyTorch within the context.

    Runs use one, since the number of threads decides the last bits of a sum.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
