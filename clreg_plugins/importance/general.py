"""The general path: per-sample gradients of any parameter of any model; slower than a rule, the same numbers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from clreg_plugins.importance.model import Forward
from clreg_plugins.importance.samples import Batch

Moments = dict[str, Tensor]

# What vmap raises where a model cannot be vectorised: data-dependent control flow, an operation without a batching
# rule, an in-place write into a tensor of another sample. A model that is itself broken raises again one at a time.
_NOT_VECTORISABLE = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    IndexError,
    KeyError,
)


class _Bound(nn.Module):
    """``forward(model, …)`` as a module, so that ``functional_call`` reaches the model's parameters."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model = model
        self._forward_of = forward

    def forward(self, inputs: Tensor, task_labels: Tensor | None) -> Tensor:
        """The model's output."""
        return self._forward_of(self.model, inputs, task_labels)


def vectorised(
    model: nn.Module,
    forward: Forward,
    parameters: dict[str, Tensor],
    batch: Batch,
    cotangents: Tensor,
    power: int,
    chunk: int,
) -> Moments | None:
    """Moments by ``torch.func``: vmap over samples of a vector–Jacobian product; None where the model resists.

    Args:
        parameters: those asked for, under the model's own names.
        cotangents: shape (samples, K, *output).
        power: p of the importance.
        chunk: samples at a time.
    """
    bound = _Bound(model, forward)
    values = {f"model.{name}": p.detach() for name, p in parameters.items()}

    def one_sample(inputs: Tensor, task_label: Tensor | None, v: Tensor) -> Moments:
        """Of one sample, without its dimension; v has shape (K, *output)."""
        labels = None if task_label is None else task_label.unsqueeze(0)
        _, pull_back = vjp(
            lambda changed: functional_call(bound, changed, (inputs.unsqueeze(0), labels)),
            values,
        )
        squares: Moments = {}
        for k in range(v.shape[0]):
            (gradients,) = pull_back(v[k].unsqueeze(0))
            for name, gradient in gradients.items():
                square = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).square()
                squares[name] = squares[name] + square if name in squares else square
        return squares if power == 2 else {name: s.sqrt() for name, s in squares.items()}

    totals: Moments = {}
    in_dims = (0, None if batch.task_labels is None else 0, 0)
    try:
        for start in range(0, len(batch.inputs), chunk):
            rows = batch.rows(start, start + chunk)
            v = cotangents[start : start + chunk]
            with sdpa_kernel(SDPBackend.MATH):  # the one attention kernel that vmap can batch
                part = vmap(one_sample, in_dims=in_dims)(rows.inputs, rows.task_labels, v)
            for name, value in part.items():
                name, value = name.removeprefix("model."), value.sum(dim=0)
                totals[name] = totals[name].add_(value) if name in totals else value
    except _NOT_VECTORISABLE:
        return None
    return totals


def one_at_a_time(
    outputs: Callable[[Batch], Tensor],
    parameters: dict[str, Tensor],
    batch: Batch,
    cotangents: Tensor,
    power: int,
) -> Moments:
    """Moments by one forward and K backward passes for each sample: what every model allows."""
    totals = {
        name: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32), requires_grad=False)
        for name, p in parameters.items()
    }
    for n in range(len(batch.inputs)):
        z = outputs(batch.rows(n, n + 1))
        squares: Moments = {}
        for k in range(cotangents.shape[1]):
            gradients = gradients_of(z, parameters, cotangents[n : n + 1, k])
            for name, gradient in gradients.items():
                square = gradient.to(totals[name].dtype).square()
                squares[name] = squares[name].add_(square) if name in squares else square
        for name, square in squares.items():
            totals[name] += square if power == 2 else square.sqrt()
    return totals


def gradients_of(outputs: Tensor, parameters: dict[str, Tensor], v: Tensor) -> dict[str, Tensor]:
    """``vᵀ ∂outputs/∂θ`` for the parameters that the outputs depend on."""
    if not parameters or not outputs.requires_grad:
        return {}
    gradients = torch.autograd.grad(
        outputs,
        list(parameters.values()),
        v,
        retain_graph=True,
        allow_unused=True,
    )
    return {
        name: gradient.to_dense() if gradient.is_sparse else gradient
        for name, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None
    }
