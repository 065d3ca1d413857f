"""The path integral of Synaptic Intelligence (Zenke, Poole and Ganguli, ICML 2017), on plain tensors.

Nothing here moves data or waits for a device.
"""

from torch import Tensor


def accumulate(omega: Tensor, gradient: Tensor, decrease: Tensor) -> None:
    """ω ← ω − g·Δθ, in place, for one step of the optimizer (equation 3; the sign makes a falling loss positive).

    Args:
        omega: ω, of any shape.
        gradient: g at the θ before the step, of that shape.
        decrease: −Δθ, θ before the step minus θ after it.
    """
    omega.addcmul_(gradient, decrease)


def importance(omega: Tensor, displacement: Tensor, xi: float) -> Tensor:
    """ω / (Δ² + ξ) (equation 5), with Δ the displacement over the whole experience and ξ the damping."""
    return omega / (displacement.square() + xi)
