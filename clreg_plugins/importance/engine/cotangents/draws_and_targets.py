"""Random numbers that do not depend on how a batch is cut, and targets that fit the outputs."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor

FEW_OUTPUTS = 32
"""Outputs in use up to which draws are put together, which takes memory by the square of them."""


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


def merged(drawn: Iterator[Tensor], draws: int, used: Tensor) -> Iterator[Tensor]:
    """At most as many cotangents as outputs in use, with the same Σ v vᵀ for each sample as those drawn.

    Each costs a backward pass. They are the rows of R, where QR has the draws as its rows; by Householder's method a
    column is accurate relative to itself, so that small scores are as accurate as large ones. With more than
    :data:`FEW_OUTPUTS` outputs in use the draws stay as they are.

    Args:
        drawn: cotangents, one for each of ``draws``, samples first.
        used: for each output of a sample, whether a cotangent can differ from 0 there.
    """
    columns = used.flatten().nonzero().flatten()
    most = len(columns)
    if not 0 < most < draws or most > FEW_OUTPUTS:
        yield from drawn
        return
    rows: list[Tensor] = []
    for v in drawn:
        rows.append(v.reshape(len(v), used.numel())[:, columns])
        if len(rows) == 2 * most:
            rows = _triangle(rows)
    for row in _triangle(rows):
        whole = v.new_zeros(len(v), used.numel())
        whole[:, columns] = row.to(v.dtype)
        yield whole.view(v.shape)


def bytes_of_draws(draws: int, numbers: int, outputs: int) -> int:
    """What the draws of one sample take beside their cotangents, at most.

    That is their random numbers in float64, ``numbers`` for each draw, and the rows that :func:`merged` works on.
    """
    return 8 * draws * numbers + 6 * 4 * min(outputs, FEW_OUTPUTS, draws - 1) ** 2


def _triangle(rows: list[Tensor]) -> list[Tensor]:
    matrix = torch.stack(rows, dim=1)
    return [*torch.linalg.qr(matrix.to(torch.promote_types(matrix.dtype, torch.float32)), mode="r").R.unbind(1)]


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
