"""Derivatives of the loss along directions in the space of parameters; no matrix is formed."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Generator, Tensor, nn

from clreg_plugins.diagnostics.log_likelihood import Loss
from clreg_plugins.importance.engine.batch import Batch
from clreg_plugins.importance.engine.forward_pass import is_out_of_memory


def derivatives_along(
    loss: Loss,
    z: Tensor,
    batch: Batch,
    parameters: Mapping[str, nn.Parameter],
    anchor: Mapping[str, Tensor],
    points: Sequence[Mapping[str, Tensor]],
) -> np.ndarray:
    """gᵀδ, ½ δᵀGδ and ½ δᵀ(H − G)δ at each point, summed over the samples: shape (3, points)."""
    found = np.zeros((3, len(points)))
    outputs = z.detach().cpu().double().requires_grad_()
    (v,) = torch.autograd.grad(loss(outputs, batch), outputs, create_graph=True)
    pulled = v.detach().to(z).requires_grad_()
    try:
        gradients = torch.autograd.grad(z, list(parameters.values()), pulled, create_graph=True, allow_unused=True)
        used = {name: g.to_dense() for name, g in zip(parameters, gradients, strict=True) if g is not None}

        def along(delta: Mapping[str, Tensor]) -> tuple[float, float, dict[str, Tensor]]:
            """gᵀδ, δᵀGδ and (H − G)δ by parameter."""
            terms = [(g * delta[name]).sum() for name, g in used.items()]
            jvp, *rows = torch.autograd.grad(
                sum(terms), [pulled, *(parameters[name] for name in used)], retain_graph=True, allow_unused=True
            )
            u = torch.zeros_like(v) if jvp is None else jvp.cpu().double()
            (of_outputs,) = torch.autograd.grad(v, outputs, u, retain_graph=True)
            first_order = float((v.detach() * u).sum())
            # autograd leaves out what is differentiable once, such as some custom functions, and says nothing
            scale = _dot(used, delta, absolute=True)
            if abs(first_order - float(sum(terms).detach())) > tolerance * scale:
                raise RuntimeError("the gradient of a part of it has no graph")
            rest = {name: row for name, row in zip(used, rows, strict=True) if row is not None}
            return first_order, float((of_outputs * u).sum()), rest

        tolerance, generator = torch.finfo(z.dtype).eps ** 0.5, Generator(device="cpu").manual_seed(0)
        any_other = {
            name: torch.randn(g.shape, generator=generator, dtype=torch.float64, device="cpu").to(g.device, g.dtype)
            for name, g in used.items()
        }
        _, curvature_of_other, rest_of_other = along(any_other)
        for i, point in enumerate(points):
            delta = {name: _difference(point[name], anchor[name], parameters[name]) for name in used}
            first_order, curvature, rest = along(delta)
            # not all second derivatives of PyTorch's are right: weight norm's is not even symmetric
            gap = abs(_dot(rest, any_other) - _dot(rest_of_other, delta))
            scale = _dot(rest, any_other, absolute=True) + _dot(rest_of_other, delta, absolute=True)
            if gap > tolerance * (scale + max(curvature * curvature_of_other, 0) ** 0.5):
                raise RuntimeError("PyTorch's second derivative of a part of it is not symmetric")
            found[:, i] = first_order, 0.5 * curvature, 0.5 * _dot(rest, delta)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"the model cannot be differentiated twice, which its curvature takes: {reason}") from error
    return found


def _dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor], *, absolute: bool = False) -> float:
    """``Σ_i a_i b_i`` over the names of ``a``, or the sum of the absolute values."""
    products = (a[name].detach() * b[name] for name in a)
    return sum(float((product.abs() if absolute else product).sum()) for product in products)


def _difference(point: Tensor, anchor: Tensor, p: nn.Parameter) -> Tensor:
    return (point.to(p.device) - anchor.to(p.device)).to(p.dtype)
