"""The cotangents of a Gaussian likelihood with σ = 1; the exact ones are every output."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from clreg_plugins.importance.engine.cotangents.draws_and_targets import merged, same_shape, targets_on, uniform_numbers


def sample(z: Tensor, _y: Any, generator: Generator, *, draws: int) -> Iterator[Tensor]:
    """(ŷ − z)/√S with ŷ ~ N(z, 1): standard normal numbers."""
    shape = (z.shape[0], math.prod(z.shape[1:]))
    numbers = uniform_numbers(shape, draws, generator, z, lambda u: torch.special.ndtri(u.clamp(min=1e-300)))
    scores = (normal.view(z.shape) / draws**0.5 for normal in numbers)
    return merged(scores, draws, used=torch.ones(z.shape[1:], dtype=torch.bool, device=z.device))


def empirical(z: Tensor, y: Any, _generator: Generator) -> Iterator[Tensor]:
    """y − z."""
    yield same_shape(targets_on(y, z), z.shape, "targets").to(z) - z
