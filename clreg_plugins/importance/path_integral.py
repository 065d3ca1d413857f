"""The path integral of Synaptic Intelligence (Zenke, Poole and Ganguli, ICML 2017), on plain tensors.

Nothing here moves data or waits for a device.
"""

import torch
from torch import Tensor

from clreg_plugins.checks import instance, within

TINY = torch.finfo(torch.float32).tiny


def accumulate(omega: Tensor, gradient: Tensor, decrease: Tensor) -> None:
    """ω ← ω − g·Δθ, in place, for one step of the optimizer (equation 3; the sign makes a falling loss positive).

    Args:
        omega: ω, of any shape.
        gradient: g at the θ before the step, of that shape.
        decrease: −Δθ, θ before the step minus θ after it.

    Raises:
        ValueError: the shapes differ.
    """
    _of_one_shape(omega, gradient=gradient, decrease=decrease)
    omega.addcmul_(gradient, decrease)


def importance(omega: Tensor, displacement: Tensor, xi: float) -> Tensor:
    """ω / (Δ² + ξ) (equation 5), with Δ the displacement over the whole experience and ξ the damping.

    Raises:
        ValueError: the shapes differ, or ξ is not a positive number that float32 holds.
    """
    _of_one_shape(omega, displacement=displacement)
    xi = checked_damping(xi)
    return omega / (displacement.square() + xi)


def checked_damping(xi: float, name: str = "xi") -> float:
    """ξ as a float; ValueError, which calls it ``name``, unless it is a positive number that float32 holds, as ω is."""
    return within(name, xi, TINY)


def _of_one_shape(omega: Tensor, **others: Tensor) -> None:
    for name, tensor in {"omega": omega, **others}.items():
        instance(name, tensor, Tensor, "a tensor")
        if tensor.shape != omega.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(omega.shape)}, that of omega")
