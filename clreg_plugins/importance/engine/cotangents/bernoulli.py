"""The cotangents of a Bernoulli likelihood of logits."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from clreg_plugins.importance.engine.cotangents.draws_and_targets import merged, same_shape, targets_on, uniform_numbers
from clreg_plugins.importance.engine.cotangents.outputs import every_output


def exact(z: Tensor, _y: Any, _generator: Generator) -> Iterator[Tensor]:
    """√(π_c (1 − π_c)) e_c."""
    wide = z.to(torch.promote_types(z.dtype, torch.float32))
    deviation = (wide.sigmoid() * (-wide).sigmoid()).sqrt().to(z.dtype)  # 1 − π would cancel
    for v in every_output(z, None, _generator):
        yield v * deviation


def sample(z: Tensor, _y: Any, generator: Generator, *, draws: int) -> Iterator[Tensor]:
    """(ŷ − π)/√S with ŷ ~ π."""
    pi = z.to(torch.promote_types(z.dtype, torch.float32)).sigmoid()
    numbers = uniform_numbers((z.shape[0], math.prod(z.shape[1:])), draws, generator, pi)
    scores = (_score((uniform.view(z.shape) < pi).to(pi), z) / draws**0.5 for uniform in numbers)
    return merged(scores, draws, used=torch.ones(z.shape[1:], dtype=torch.bool, device=z.device))


def predicted(z: Tensor, _y: Any, _generator: Generator) -> Iterator[Tensor]:
    """ŷ − π with ŷ = 1 where π > ½."""
    yield _score((z > 0).to(z), z)


def empirical(z: Tensor, y: Any, _generator: Generator) -> Iterator[Tensor]:
    """y − π."""
    yield _score(same_shape(targets_on(y, z), z.shape, "targets"), z)


def _score(y: Tensor, z: Tensor) -> Tensor:
    """y − π, as y (1 − π) − (1 − y) π, so that nothing cancels."""
    wide = z.to(torch.promote_types(z.dtype, torch.float32))
    y = y.to(wide)
    return (y * (-wide).sigmoid() - (1 - y) * wide.sigmoid()).to(z.dtype)
