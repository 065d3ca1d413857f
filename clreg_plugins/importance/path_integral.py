"""The path integral of Synaptic Intelligence (Zenke, Poole and Ganguli, ICML 2017), on plain tensors.

State is a tensor ω for each parameter, on its device. Nothing here moves data or waits for a device.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def accumulate(omega: Tensor, gradient: Tensor, displacement: Tensor) -> None:
    """ω ← ω − g·Δθ, in place, for one step of the optimizer (equation 3; the sign makes a falling loss positive).

    Args:
        omega: ω, the shape of the parameter.
        gradient: g at the θ before the step.
        displacement: Δθ, the change that the optimizer really made.
    """
    omega.addcmul_(gradient, displacement, value=-1)


def importance(omega: Tensor, displacement: Tensor, xi: float) -> Tensor:
    """ω / (Δ² + ξ) (equation 5), with Δ the displacement over the whole experience and ξ the damping."""
    return omega / (displacement.square() + xi)


def grow(omega: dict[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Give new or grown parameters a path integral of 0, in at least float32; keep what there is, in place."""
    for name, parameter in parameters.items():
        known = omega.get(name)
        if known is not None and known.shape == parameter.shape and known.device == parameter.device:
            continue
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        grown = torch.zeros(parameter.shape, dtype=dtype, device=parameter.device)
        if known is not None:
            grown[tuple(slice(0, size) for size in known.shape)] = known.to(parameter.device)
        omega[name] = grown
