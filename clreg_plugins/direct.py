"""The penalty's gradient added straight to ``p.grad``, as the backward pass ends."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable

from clreg_plugins.penalty import QuadraticPenalty

ALLOWED = 'allowed here: gradient_path="autograd"'


def add_gradient(parameter: Tensor, product: Tensor, strength: float, scale: Tensor) -> None:
    """Add ``scale · strength · product`` to the gradient of a parameter, which may have none yet.

    Args:
        parameter: of any floating-point type.
        product: Ω (θ − μ), of its shape.
        strength: λ.
        scale: what the loss was scaled by. Not multiplied by λ beforehand: the two alone may be beyond float32.
    """
    factor = scale.to(product.device)
    if parameter.grad is None or parameter.grad.is_sparse:
        gradient = (product * strength).mul_(factor)
        parameter.grad = (gradient if parameter.grad is None else gradient + parameter.grad).to(parameter.dtype)
    else:
        parameter.grad.addcmul_(product, factor, value=strength)


class DirectGradient:
    """Keeps the penalty out of autograd, and watches that nothing happens which only autograd would have got right.

    A node in the graph of the loss sees every differentiation. A backward pass has the penalty's gradient, scaled as
    the loss was, added to ``p.grad`` when all of the task's is there and before ``backward()`` returns: whoever looks
    at gradients then sees the whole. No step waits for a device, unless parameters lie on another than the loss.
    """

    def __init__(self) -> None:
        self._products: dict[str, tuple[Tensor, Tensor]] = {}  # by name: a parameter, and its Ω (θ − μ)
        self._strength = 0.0
        self._probe: Tensor | None = None  # its gradient is what the loss was scaled by
        self._backward_passes: int | None = None  # of the loss; None outside of a step

    @torch.no_grad()
    def add(
        self,
        model: nn.Module,
        loss: Tensor,
        penalty: QuadraticPenalty,
        parameters: Mapping[str, Tensor],
        strength: float,
    ) -> Tensor:
        """Add the penalty's value to the loss, which is returned; its gradient follows with the backward pass.

        Args:
            model: the strategy's.
            loss: a scalar, with or without a graph.
            penalty: times ``strength / 2``.
            parameters: by name.
            strength: λ.

        Raises:
            RuntimeError: the model is a DistributedDataParallel, which averages gradients over processes when it
                likes.
        """
        if isinstance(model, nn.parallel.DistributedDataParallel):
            raise RuntimeError(f'gradient_path="direct" cannot be used with DistributedDataParallel; {ALLOWED}')
        value, products = penalty.value_and_products(parameters)
        self._products = {n: (parameters[n], product) for n, product in products.items() if parameters[n].requires_grad}
        self._strength, self._backward_passes = strength, 0
        value = value.to(loss.device).mul_(strength / 2)
        dtype = torch.promote_types(loss.dtype, value.dtype)
        self._probe = torch.zeros((), dtype=dtype, device=loss.device, requires_grad=True)
        with torch.enable_grad():
            return _Watched.apply(loss, value, self._probe, self)

    def differentiated(self) -> None:
        """Note a differentiation of the loss that begins.

        Raises:
            RuntimeError: it is one that makes gradients which the penalty would be missing from.
        """
        if torch.is_grad_enabled():
            raise RuntimeError(
                'strategy.loss was differentiated with create_graph=True, of which gradient_path="direct" keeps the '
                f"penalty out; {ALLOWED}"
            )
        if self._backward_passes is None:
            raise RuntimeError(
                'strategy.loss was differentiated again after after_backward, when with gradient_path="direct" the '
                f"penalty's gradient is gone; {ALLOWED}"
            )
        # torch.autograd.graph.queue_callback in versions of PyTorch later than the first that clreg works with
        Variable._execution_engine.queue_callback(self._add_gradients)

    @torch.no_grad()
    def _add_gradients(self) -> None:
        """As the backward pass ends; refuse what has seen, or will never see, the task's gradient alone."""
        if self._probe.grad is None:  # only a backward pass accumulates gradients in leaves that nobody asked for
            raise RuntimeError(
                "strategy.loss was differentiated by torch.autograd.grad or for some inputs only (as MIR does), from "
                f'which gradient_path="direct" keeps the penalty out; {ALLOWED}'
            )
        for name, (p, _) in self._products.items():
            if p._backward_hooks or p._post_accumulate_grad_hooks:
                raise RuntimeError(
                    f"parameter {name!r} has a hook on its gradient, which would not see the penalty's with "
                    f'gradient_path="direct"; {ALLOWED}'
                )
        scale, self._probe.grad = self._probe.grad, None
        self._backward_passes += 1
        for p, product in self._products.values():
            add_gradient(p, product, self._strength, scale)

    def check(self, strategy: Any) -> None:
        """After the backward pass: refuse a strategy that did not differentiate the loss which it was given.

        Args:
            strategy: the one in training, for its name.

        Raises:
            RuntimeError: there was no backward pass of that loss.
        """
        if self._backward_passes is None:
            return
        passes, self._backward_passes, self._products = self._backward_passes, None, {}
        if not passes:
            raise RuntimeError(
                f"{type(strategy).__name__}'s backward pass did not differentiate strategy.loss as the plugin left it, "
                f'which gradient_path="direct" needs; {ALLOWED}'
            )


class _Watched(torch.autograd.Function):
    """``loss + value``, the value without gradient; the probe's is the scale."""

    @staticmethod
    def forward(ctx, loss, value, _probe, watch):
        """Add."""
        ctx.watch = watch
        return loss + value

    @staticmethod
    def backward(ctx, scale):
        """Report, and hand on."""
        ctx.watch.differentiated()
        return scale, None, scale, None
