"""Tensors as a penalty's state holds them: where, in which type, and with which numbers."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clreg_plugins.checks import dense
from clreg_plugins.flat import Place


def state_place(parameter: Tensor) -> Place:
    """Where the state of a parameter lies: with it, in float32 or its own wider type."""
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    return Place(parameter.shape, parameter.device, dtype)


def held(what: str, tensor: Any, place: Place, minimum: float = -math.inf) -> Tensor:
    """A tensor as the state holds it.

    Raises:
        ValueError: it is no dense tensor of numbers, has another shape, or an entry below ``minimum``.
        FloatingPointError: an entry is not finite in the state's type.
    """
    tensor = dense(what, tensor)
    if tensor.shape != place.shape:
        raise ValueError(f"{what} has shape {tuple(tensor.shape)}, expected {tuple(place.shape)}")
    value = tensor.to(place.device, place.dtype)
    if not torch.isfinite(value).all():
        bad = tensor.cpu().double()[~torch.isfinite(value).cpu()][0].item()
        raise FloatingPointError(f"{what} holds {bad}; every entry must be finite in {place.dtype}")
    if (value < minimum).any():
        raise ValueError(f"{what} holds {value.min().item()}; it must be at least {minimum:g}")
    return value


def held_of_state(
    kind: str, tensors: Mapping[str, Any], places: Mapping[str, Place], minimum: float = -math.inf
) -> dict[str, Tensor]:
    """Tensors of a state by name, in these places, which have its names.

    Raises:
        ValueError: one is not as its place says, not finite, or has an entry below ``minimum``.
    """
    try:
        return {n: held(f"{kind} of {n!r} in the state", tensors[n], place, minimum) for n, place in places.items()}
    except FloatingPointError as error:
        raise ValueError(str(error)) from error
