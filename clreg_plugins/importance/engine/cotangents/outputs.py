"""The cotangents of outputs: each by itself, and their norm."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor


def outputs_a_sample(z: Tensor) -> int:
    """How many numbers the model puts out for a sample."""
    return z.numel() // max(1, z.shape[0])


def every_output(z: Tensor, _y: Any, _generator: Generator) -> Iterator[Tensor]:
    """e_c for every output c: the exact Fisher of a Gaussian with σ = 1, and MAS of the whole output vector.

    Raises:
        ValueError: the outputs are complex.
    """
    if z.is_complex():
        raise ValueError('the outputs are complex; allowed: real outputs, or MAS with output="squared_norm"')
    for c in range(outputs_a_sample(z)):
        v = torch.zeros_like(z, memory_format=torch.contiguous_format)
        v.view(z.shape[0], -1)[:, c] = 1
        yield v


def squared_norm(
    z: Tensor, _y: Any, _generator: Generator, *, mean: bool, mask_value: float | None
) -> Iterator[Tensor]:
    """2z, the gradient of ‖z‖² (Aljundi et al. 2018, section 4.2), or 2z/C with C the outputs in use."""
    v = 2 * z
    if mean:
        rows = v.reshape(v.shape[0], -1)
        used = torch.full_like(rows[:, :1], rows.shape[1])
        if mask_value is not None:
            used = (z.reshape(rows.shape) != mask_value).sum(dim=1, keepdim=True).clamp(min=1)
        v = (rows / used).view(z.shape)
    yield v
