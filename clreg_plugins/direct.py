"""The penalty's gradient put straight into ``p.grad``, to which the backward pass then adds the task's."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clreg_plugins.penalty import QuadraticPenalty

ALLOWED = 'allowed here: gradient_path="autograd"'


class DirectGradient:
    """Keeps the penalty out of autograd, and watches that nothing happens which only autograd would have got right.

    The gradient is right if the loss is differentiated once, unscaled, on top of what this left in ``p.grad``. A node
    in the graph of the loss sees every differentiation and what the loss was scaled by. No step on a GPU waits for it,
    but the first of an epoch: a scale that appears later is found at the end of the epoch.
    """

    def __init__(self) -> None:
        self._given: list[tuple[Tensor, Tensor]] = []  # parameters, and their gradients
        self._scales: list[Tensor] | None = None  # of each differentiation of the loss; None outside of a step
        self._cleared = False
        self._scaled: Tensor | None = None  # of the epoch

    def start_epoch(self) -> None:
        """Look anew for what is looked at once an epoch."""
        self._scaled = None

    @torch.no_grad()
    def add(
        self,
        model: nn.Module,
        loss: Tensor,
        penalty: QuadraticPenalty,
        parameters: Mapping[str, Tensor],
        strength: float,
    ) -> Tensor:
        """Add the penalty's gradient to that of each parameter, and its value to the loss, which is returned.

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
        value, gradients = penalty.value_and_gradient(parameters, strength)
        self._given, self._scales, self._cleared = [], [], False
        for name, gradient in gradients.items():
            p = parameters[name]
            if not p.requires_grad:
                continue
            if p._backward_hooks:
                raise RuntimeError(
                    f"parameter {name!r} has a hook on its gradient, which would not see the penalty's with "
                    f'gradient_path="direct"; {ALLOWED}'
                )
            if p.grad is None:
                p.grad = gradient.to(p.dtype)
            elif p.grad.is_sparse:
                p.grad = gradient.to(p.dtype) + p.grad
            else:
                p.grad.add_(gradient)
            # on the tensor itself, so that several plugins which share it know of each other's additions
            p.grad.version_with_penalty = p.grad._version
            self._given.append((p, p.grad))
        probe = torch.zeros((), device=loss.device, requires_grad=True)  # for a loss that has no graph of its own
        with torch.enable_grad():
            return _Watched.apply(loss, value.to(loss.device), probe, self)

    def differentiated(self, scale: Tensor) -> None:
        """Note a differentiation of the loss that begins, before the task's gradients arrive.

        Args:
            scale: what the loss was multiplied by.
        """
        if self._scales is not None:
            self._scales.append(scale.detach().clone())
        # one that has changed may have been added to, by a penalty that autograd carries; clearing changes them all
        self._cleared |= bool(self._given) and all(
            p.grad is not gradient or gradient._version != gradient.version_with_penalty for p, gradient in self._given
        )

    def check(self, strategy: Any) -> None:
        """After the backward pass: refuse what was done to the loss or the gradients, if it makes them wrong.

        Args:
            strategy: the one in training, for its name.

        Raises:
            RuntimeError: the loss was not differentiated just once, or was scaled, or gradients were cleared.
        """
        if self._scales is None:
            return
        given, scales = self._given, self._scales
        self._given, self._scales = [], None
        name = type(strategy).__name__
        if len(scales) != 1:
            raise RuntimeError(
                f"{name} or a plugin of it differentiated strategy.loss {len(scales)} times, which "
                f'gradient_path="direct" allows once, by the backward pass; {ALLOWED}'
            )
        if self._cleared or any(p.grad is not gradient for p, gradient in given):
            raise RuntimeError(
                f"{name} or a plugin of it cleared, replaced or wrote to gradients between before_backward and "
                f'after_backward, and so the penalty\'s, which gradient_path="direct" puts there; {ALLOWED}'
            )
        scaled = (scales[0] != 1).any()
        if scaled.device.type == "cpu" or self._scaled is None:
            _refuse(scaled)
            self._scaled = scaled
        else:
            self._scaled = self._scaled | scaled

    def end_epoch(self) -> None:
        """Look at the flag that steps on a GPU raise.

        Raises:
            RuntimeError: the loss was scaled at one of the epoch's steps.
        """
        if self._scaled is not None:
            _refuse(self._scaled)


def _refuse(scaled: Tensor) -> None:
    if bool(scaled):
        raise RuntimeError(
            "the loss was scaled after the penalty was added (by a plugin, a GradScaler, or for accumulated "
            f'minibatches), which gradient_path="direct" cannot follow; {ALLOWED}'
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
