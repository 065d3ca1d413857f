"""Random numbers that do not depend on how a batch is cut, and targets that fit the outputs."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor


def uniform_numbers(
    shape: tuple[int, int],
    draws: int,
    generator: Generator,
    like: Tensor,
    transform: Callable[[Tensor], Tensor] = lambda u: u,
) -> Iterator[Tensor]:
    """Uniform numbers of ``shape`` for each draw, in the type and on the device of ``like``, drawn sample by sample.

    A sample then meets the same numbers however its batch is cut to fit the memory. They are drawn and transformed in
    float64 on the CPU, since not every device has that type.
    """
    numbers = torch.rand((shape[0], draws, *shape[1:]), generator=generator, dtype=torch.float64, device="cpu")
    for d in range(draws):
        yield transform(numbers[:, d]).to(like.dtype).to(like.device)


def targets_on(y: Any, z: Tensor) -> Tensor:
    """The targets on the device of ``z``; ValueError if there are none, or they are no tensor."""
    if y is None:
        raise ValueError("this Fisher variant needs targets, but the data has none; exact, sample and predicted do not")
    if not isinstance(y, Tensor):
        raise ValueError(
            f"this Fisher variant needs targets in a tensor, got a {type(y).__name__}; unpack= can make one"
        )
    return y.to(z.device)


def same_shape(y: Tensor, shape: torch.Size, what: str) -> Tensor:
    """``y`` if it has this shape; ValueError otherwise."""
    if y.shape != shape:
        raise ValueError(f"{what} have shape {tuple(y.shape)}, but the outputs have shape {tuple(shape)}")
    return y
