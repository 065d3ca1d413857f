"""The penalty's gradient added straight to ``p.grad``, as the backward pass ends."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable

from clreg_plugins.penalty import QuadraticPenalty

ALLOWED = 'allowed here: gradient_path="autograd"'


class DirectGradient:
    """Keeps the penalty out of autograd, and watches that nothing happens which only autograd would have got right.

    A node in the graph of the loss sees every differentiation, and what the loss was scaled by. The first one to come
    has the penalty's gradient, as often scaled, added to ``p.grad`` when all of the task's is there and before
    ``backward()`` returns: whoever looks at gradients then sees the whole. No step waits for a device.
    """

    def __init__(self) -> None:
        self._products: dict[str, tuple[Tensor, Tensor]] = {}  # by name: a parameter, and its Ω (θ − μ)
        self._strength = 0.0
        self._times: int | None = None  # that the loss was differentiated; None outside of a step
        self._with_graph = False

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
                likes, or a parameter has a hook, which would not see the penalty's gradient.
        """
        if isinstance(model, nn.parallel.DistributedDataParallel):
            raise RuntimeError(f'gradient_path="direct" cannot be used with DistributedDataParallel; {ALLOWED}')
        value, products = penalty.value_and_products(parameters, strength)
        self._products = {n: (parameters[n], product) for n, product in products.items() if parameters[n].requires_grad}
        self._strength, self._times, self._with_graph = strength, 0, False
        for name, (p, _) in self._products.items():
            if p._backward_hooks or p._post_accumulate_grad_hooks:
                raise RuntimeError(
                    f"parameter {name!r} has a hook on its gradient, which would not see the penalty's with "
                    f'gradient_path="direct"; {ALLOWED}'
                )
        probe = torch.zeros((), device=loss.device, requires_grad=True)  # for a loss that has no graph of its own
        with torch.enable_grad():
            return _Watched.apply(loss, value.to(loss.device), probe, self)

    def differentiated(self, scale: Tensor) -> None:
        """Note a differentiation of the loss that begins.

        Args:
            scale: what the loss was multiplied by.
        """
        if self._times is None:
            return
        self._times += 1
        self._with_graph |= torch.is_grad_enabled()
        if self._times == 1:
            scale = scale.detach()
            Variable._execution_engine.queue_callback(lambda: self._give(scale))

    @torch.no_grad()
    def _give(self, scale: Tensor) -> None:
        for p, product in self._products.values():
            factor = scale.item() if scale.device.type == "cpu" else scale.to(product.device)
            if p.grad is None:
                p.grad = (product * self._strength).mul_(factor).to(p.dtype)
            elif p.grad.is_sparse:
                p.grad = ((product * self._strength).mul_(factor) + p.grad).to(p.dtype)
            elif isinstance(factor, Tensor):
                p.grad.addcmul_(product, factor, value=self._strength)
            else:
                p.grad.add_(product, alpha=self._strength * factor)

    def check(self, strategy: Any) -> None:
        """After the backward pass: refuse what was done to the loss, if it makes gradients wrong.

        Args:
            strategy: the one in training, for its name.

        Raises:
            RuntimeError: the loss was not differentiated just once, or with a graph of the gradients.
        """
        if self._times is None:
            return
        times, self._times, self._products = self._times, None, {}
        name = type(strategy).__name__
        if times != 1:
            raise RuntimeError(
                f"{name} or a plugin of it differentiated strategy.loss {times} times, which "
                f'gradient_path="direct" allows once, by the backward pass; {ALLOWED}'
            )
        if self._with_graph:
            raise RuntimeError(
                f"{name} or a plugin of it differentiated strategy.loss with create_graph=True, of which "
                f'gradient_path="direct" keeps the penalty out; {ALLOWED}'
            )


class _Watched(torch.autograd.Function):
    """``loss + value``, the value without gradient."""

    @staticmethod
    def forward(ctx, loss, value, _probe, watch):
        """Add."""
        ctx.watch = watch
        return loss + value

    @staticmethod
    def backward(ctx, scale):
        """Report, and hand on."""
        ctx.watch.differentiated(scale)
        return scale, None, None, None
