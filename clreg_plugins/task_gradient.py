"""The gradient of the task's loss, read off that of the whole loss after its backward pass."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clreg_plugins.flat import FlatTensors
from clreg_plugins.penalty_step import Step


class TaskGradient:
    """``g = ∇(loss without the penalty)``, for the one backward pass that a strategy makes.

    Another plugin or a GradScaler may scale the loss. So a probe, a scalar 0, is added to it: the gradient s that it
    receives is what every other gradient was multiplied by. Where gradients of several backward passes add up, so does
    s. As the penalty's gradient is known in closed form,

        g = (θ.grad − s · ∇penalty) / s

    needs no second backward pass (Zenke's code keeps two: ``unreg_grads``). A loss scaled by 0 gives g = 0. No step
    waits for a device.
    """

    def __init__(self) -> None:
        self._probe: Tensor | None = None
        self._scale: Tensor | None = None  # of the gradients as they stand
        self._sample: Sample | None = None
        self._adds_up = False
        self.not_optimised: list[str] = []  # parameters with a gradient that the strategy's optimizer does not have

    def begin(self) -> None:
        """Before a forward pass: see whether gradients stand as the latest backward pass left them."""
        sample = self._sample
        self._adds_up = sample is not None and sample.stands() and sample.gradient._version == sample.version

    def add_probe(self, loss: Tensor) -> Tensor:
        """The loss to differentiate."""
        if self._probe is None or self._probe.device != loss.device:
            self._probe = torch.zeros((), device=loss.device, requires_grad=True)
        self._probe.grad = None
        return loss + self._probe

    @torch.no_grad()
    def read(
        self,
        strategy: Any,
        parameters: Mapping[str, Tensor],
        penalty: Step | None,
        into: FlatTensors,
    ) -> None:
        """Write g of each parameter after a backward pass; 0 where there is no gradient.

        Args:
            strategy: the one in training.
            parameters: by name; those that ``into`` lacks are passed over.
            penalty: what g leaves out; None for nothing.
            into: what g is written to, in the places of the penalty's state.

        Raises:
            RuntimeError: the backward pass did not reach the loss with the probe.
        """
        if self._probe is None or self._probe.grad is None:
            raise RuntimeError(
                f"{type(strategy).__name__}'s backward pass did not differentiate strategy.loss as SIPlugin left it; "
                "a plugin behind SIPlugin may change that loss, but not replace it by another"
            )
        adds_up = self._adds_up and self._sample.stands()  # else they were cleared after the forward pass
        self._scale = self._probe.grad + self._scale if adds_up else self._probe.grad
        gradients = {name: p.grad for name, p in parameters.items() if name in into and p.grad is not None}
        groups = getattr(strategy.optimizer, "param_groups", ())
        optimised = {id(p) for group in groups for p in group["params"]}
        self.not_optimised = [name for name in gradients if id(parameters[name]) not in optimised]
        self._sample = _sample({n: parameters[n] for n in gradients if id(parameters[n]) in optimised})
        if gradients:
            dense = [g.to_dense() if g.is_sparse else g for g in gradients.values()]
            torch._foreach_copy_([into[name] for name in gradients], dense)
        for kind, g in into.buffers.items():
            scale = self._scale.to(*kind)
            if penalty is not None:
                g.addcmul_(penalty.product.buffers[kind], scale, value=-penalty.strength)
            g.mul_(scale.reciprocal().nan_to_num_(nan=math.nan, posinf=0, neginf=0))
        if missing := [view for name, view in into.items() if name not in gradients]:
            torch._foreach_zero_(missing)

    def before_update(self) -> None:
        """Before the optimizer's step."""
        if self._sample is not None:
            self._sample = self._sample._replace(weights_version=self._sample.parameter._version)

    def after_update(self, before: FlatTensors) -> bool:
        """Whether the optimizer made a step, as far as can be told without waiting: a GradScaler skips some.

        Fused optimizers write without autograd's knowledge. On a CPU a look at the numbers shows it.

        Args:
            before: the parameters as they were before.
        """
        sample = self._sample
        if sample is None:
            return False
        stepped = sample.parameter._version != sample.weights_version or (
            sample.parameter.device.type == "cpu"
            and not torch.equal(sample.parameter.to(before[sample.name]), before[sample.name])
        )
        if stepped:  # gradients are cleared before they are used again; without a step they may go on adding up
            self._sample = None
        return stepped

    def __getstate__(self) -> dict[str, Any]:
        return vars(TaskGradient())


class Sample(NamedTuple):
    """One parameter that stands for all that the optimizer steps, and its gradient as a backward pass left it."""

    name: str
    parameter: Tensor
    gradient: Tensor  # itself: the id of one that is gone may be another's
    version: int
    weights_version: int | None = None

    def stands(self) -> bool:
        """Whether that gradient was not replaced."""
        return self.parameter.grad is self.gradient


def _sample(parameters: Mapping[str, Tensor]) -> Sample | None:
    """The smallest: its gradient is kept."""
    name = min(parameters, key=lambda name: (parameters[name].grad.is_sparse, parameters[name].numel()), default=None)
    if name is None:
        return None
    gradient = parameters[name].grad
    return Sample(name, parameters[name], gradient, gradient._version)
