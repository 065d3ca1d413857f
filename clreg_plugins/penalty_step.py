"""What a penalty is at given parameters, and its value as autograd differentiates it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clreg_plugins.flat import FlatTensors


class Step(NamedTuple):
    """The penalty evaluated at given parameters.

    Attributes:
        value: ``strength/2 · (Σ_i Ω_i (θ_i − μ_i)² + c)``, a scalar.
        difference: θ − μ by parameter name; 0 where there is no importance.
        product: Ω (θ − μ) by parameter name.
        strength: λ.
    """

    value: Tensor
    difference: FlatTensors
    product: FlatTensors
    strength: float

    def gradient(self, names: Sequence[str], scale: Tensor | None = None) -> dict[str, Tensor]:
        """``strength · Ω (θ − μ)`` of the named parameters, in new tensors.

        Args:
            names: parameter names.
            scale: factor by which the loss was scaled, a scalar tensor; 1 if None. Applied after λ: the product of the
                two may overflow float32.
        """
        gradients: dict[str, Tensor] = {}
        for device, dtype in self.product.buffers:
            group = [name for name in names if self.product.places[name][1:] == (device, dtype)]
            if group:
                values = torch._foreach_mul([self.product[name] for name in group], self.strength)
                if scale is not None:
                    torch._foreach_mul_(values, scale.to(device))
                gradients.update(zip(group, values, strict=True))
        return gradients


class ClosedForm(torch.autograd.Function):
    """A step's value, whose gradient is ``strength · Ω (θ − μ)``."""

    @staticmethod
    def forward(ctx, penalty, step, names, *parameters):
        """The step's value, detached."""
        ctx.penalty, ctx.step, ctx.names, ctx.versions = penalty, step, names, _versions(step.product)
        ctx.save_for_backward(*parameters)  # autograd then refuses a backward after θ has moved
        return step.value.detach()  # autograd writes to what is returned

    @staticmethod
    def backward(ctx, scale):
        """``scale · strength · Ω (θ − μ)``; recomputed where it needs a graph or the step was overwritten."""
        if torch.is_grad_enabled() or _versions(ctx.step.product) != ctx.versions:
            # create_graph=True needs gradients with a graph; a later step may have overwritten what this one found
            parameters = zip(ctx.names, ctx.saved_tensors, strict=True)
            products = ctx.penalty._products({name: p - ctx.penalty.anchor[name] for name, p in parameters})
            gradients = {name: p * ctx.step.strength * scale.to(p.device) for name, p in products.items()}
        else:  # new tensors, since autograd adds the task's gradient to them in place, or hands them to the caller
            known_to_be_one = scale.device.type == "cpu" and scale.item() == 1  # on a GPU asking is waiting
            wanted = [name for name, asked in zip(ctx.names, ctx.needs_input_grad[3:], strict=True) if asked]
            gradients = ctx.step.gradient(wanted, None if known_to_be_one else scale)
        inputs = zip(ctx.names, ctx.saved_tensors, ctx.needs_input_grad[3:], strict=True)
        return None, None, None, *(gradients[name].to(p.dtype) if asked else None for name, p, asked in inputs)


def _versions(tensors: FlatTensors) -> list[int]:
    """Version counters of the buffers."""
    return [buffer._version for buffer in tensors.buffers.values()]
