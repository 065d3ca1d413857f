"""Synaptic Intelligence."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clreg_plugins.importance import path_integral
from clreg_plugins.importance.checks import boolean, one_of, within
from clreg_plugins.outside_changes import OutsideChanges
from clreg_plugins.penalty import known_to_be_one
from clreg_plugins.plugin import RegularizationPlugin, single

GRADIENT = ("task", "total")


class SIPlugin(RegularizationPlugin, supports_distributed=True):
    """A parameter is important if its way through training lowered the loss (Zenke, Poole and Ganguli 2017).

    Over the steps of an experience ω accumulates −g·Δθ, with Δθ the change that the optimizer really made. Then
    ``Ω ← max(Ω + ω/(Δ² + ξ), 0)`` with Δ the change over the whole experience (equations 3 to 5).

    g is read after the backward pass, whatever ``strategy.loss`` was scaled by behind this plugin; a plugin that
    rewrites gradients in ``after_backward`` should stand behind this one. Where a parameter has no gradient but the
    penalty's, what is left as g is rounding, of the order of ε times that. All state lives on the parameters' device,
    and no step moves data to the host or waits for a device.

    When Avalanche's ``EarlyStoppingPlugin`` puts the best weights back, ω becomes that of the path to them. After any
    other change outside the optimizer (weights averaged, clipped or restored), there is one warning an experience: ω
    holds the optimizer's whole path, and Δ is the change to the weights as they are at consolidation. See
    :class:`~clreg_plugins.outside_changes.OutsideChanges`.

    Args:
        reg_lambda: λ ≥ 0; 2c of Zenke et al.
        xi: ξ > 0, the damping, which float32 must hold.
        gradient: "task" takes the gradient of the loss without this plugin's penalty, as the authors' code does;
            "total" takes that of the whole loss.
        clip: False keeps negative totals of Ω, as some published code does.
        consolidation: "experience" or "manual", see :class:`RegularizationPlugin`.
        gradient_path: "autograd" or "direct", see :class:`RegularizationPlugin`.

    Raises:
        ValueError: an argument outside what is allowed.

    Example:
        >>> SIPlugin(2.0, xi=0.1).gradient
        'task'
    """

    def __init__(
        self,
        reg_lambda: float,
        *,
        xi: float = 0.1,
        gradient: str = "task",
        clip: bool = True,
        consolidation: str = "experience",
        gradient_path: str = "autograd",
    ) -> None:
        super().__init__(single(reg_lambda), consolidation=consolidation, gradient_path=gradient_path)
        one_of("gradient", gradient, GRADIENT)
        self.xi = within("xi", xi, torch.finfo(torch.float32).tiny)  # ω/(Δ² + ξ) is computed in float32
        self.gradient = gradient
        self.clip = boolean("clip", clip)
        self._omega: dict[str, Tensor] = {}
        self._probe: Tensor | None = None
        self._adds_up = False  # whether the backward pass to come adds to gradients of one before it
        self._mark: tuple[str, int, int] | None = None  # the gradients as the latest backward pass left them
        self._versions: dict[str, int] = {}
        self._optimised: set[int] = set()  # ids of the parameters whose gradients the optimizer clears
        self._outside = OutsideChanges()

    @property
    def path_integral(self) -> dict[str, Tensor]:
        """A copy of ω of the experience under way, by parameter name."""
        return {name: omega.clone() for name, omega in self._omega.items()}

    # ----------------------------------------- callbacks, in the order in which they fire

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Find the parameters anew."""
        super().before_training_epoch(strategy, **kwargs)
        self._outside.begin_epoch(strategy)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """See whether gradients were cleared since the latest backward pass."""
        self._adds_up = self._accumulating()

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Add the penalty, and a probe of what the loss will be scaled by."""
        super().before_backward(strategy, **kwargs)
        if self._probe is None or self._probe.device != strategy.loss.device or not self._adds_up:
            self._probe = torch.zeros((), device=strategy.loss.device, requires_grad=True)
        # what the probe receives is what every gradient was multiplied by: by a plugin, a GradScaler, or the
        # number of backward passes since gradients were last cleared
        strategy.loss = strategy.loss + self._probe

    @torch.no_grad()
    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Read g: the task's gradient, which is the total one without the penalty's closed form."""
        if self._probe is None or self._probe.grad is None:
            raise RuntimeError(
                f"{type(strategy).__name__}'s backward pass did not differentiate strategy.loss as SIPlugin left it; "
                "a plugin behind SIPlugin may change that loss, but not replace it by another"
            )
        super().after_backward(strategy, **kwargs)
        self._mark = None
        scale = self._probe.grad
        unscaled = known_to_be_one(scale)
        if not unscaled:  # a loss scaled by 0 has no gradient to speak of
            inverse, counts = torch.where(scale == 0, 0, 1 / scale), scale != 0
        for name, p in self._parameters.items():
            if p.grad is None:
                continue
            if self._mark is None and id(p) in self._optimised:
                self._mark = (name, id(p.grad), p.grad._version)
            difference, g = self.penalty.scratch(name)
            grad = (p.grad.to_dense() if p.grad.is_sparse else p.grad).to(g)
            if not unscaled:
                grad = torch.mul(grad, inverse.to(g), out=g)
            if self.gradient == "task" and self._penalises and name in self.penalty.active:
                # the penalty's value left θ − θ* in difference
                torch.addcmul(grad, self.penalty.importance[name], difference, value=-self._scale, out=g)
                if not unscaled:
                    g.mul_(counts.to(g))
            elif unscaled:
                g.copy_(grad)

    @torch.no_grad()
    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Remember θ, which may have changed since the latest update."""
        self._outside.look(strategy, self._parameters, self._omega)
        for name, p in self._parameters.items():
            if p.grad is not None:
                before, _ = self.penalty.scratch(name)
                before.copy_(p)
                self._versions[name] = p._version

    @torch.no_grad()
    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """ω ← ω − g·Δθ."""
        stepped = False
        for name, p in self._parameters.items():
            if p.grad is None:
                continue
            before, g = self.penalty.scratch(name)
            moved = self._moved(name, p, before)
            displacement = torch.sub(p, before, out=before)
            if moved:
                stepped = True
            else:  # a skipped step: its gradient may be infinite
                g.masked_fill_(displacement == 0, 0)
            path_integral.accumulate(self._omega[name], g, displacement)
        if stepped:  # gradients are cleared before they are used again; without a step they may go on adding up
            self._mark = None
        self._outside.updated(self._parameters)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """See whether the weights changed outside the optimizer's steps."""
        super().after_training_epoch(strategy, **kwargs)
        self._outside.end_epoch(self._parameters)

    def _moved(self, name: str, p: Tensor, before: Tensor) -> bool:
        """Whether the optimizer wrote to a parameter, as far as can be told without waiting for a device.

        Fused optimizers write without autograd's knowledge. On a CPU a look at the numbers ends at the first that
        differs.
        """
        if p._version != self._versions.get(name):
            return True
        return p.device.type == "cpu" and not torch.equal(p.to(before.dtype), before)

    # ------------------------------------------------------------------ consolidation

    def _measure(self, strategy: Any, data: Any) -> dict[str, Tensor]:
        self._outside.look(strategy, self._parameters, self._omega, wait=True)
        return {
            name: path_integral.importance(
                self._omega[name],
                p.detach().to(self._omega[name]) - self.penalty.anchor[name],
                self.xi,
            )
            for name, p in self._parameters.items()
        }

    def _consolidate(self, importance: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> None:
        self.penalty.recenter(importance, anchor, clip=True if self.clip else None)
        for omega in self._omega.values():
            omega.zero_()
        self._outside.end_experience()

    def _bind(self, strategy: Any) -> None:
        super()._bind(strategy)
        path_integral.grow(self._omega, {name: self.penalty.importance[name] for name in self._parameters})
        optimizer = getattr(strategy, "optimizer", None)
        groups = [] if optimizer is None else optimizer.param_groups
        self._optimised = {id(p) for group in groups for p in group["params"]}

    def _accumulating(self) -> bool:
        """Whether gradients still stand as the latest backward pass left them, so that the next one adds to them."""
        if self._mark is None:
            return False
        name, identity, version = self._mark
        grad = self._parameters[name].grad if name in self._parameters else None
        return grad is not None and id(grad) == identity and grad._version == version

    # -------------------------------------------------------------------------- state

    def _extra_state(self) -> dict[str, Any]:
        return {"path_integral": {name: omega.clone() for name, omega in self._omega.items()}}

    def _load_extra_state(self, state: Mapping[str, Any]) -> None:
        path, shapes = state["path_integral"], state["penalty"]["importance"]
        fits = isinstance(path, Mapping) and path.keys() == shapes.keys()
        if not fits or any(getattr(path[name], "shape", None) != shapes[name].shape for name in shapes):
            raise ValueError(
                "path_integral of the state does not fit its importance; expected a tensor of the same shape for each"
            )
        self._omega = {name: omega.clone() for name, omega in path.items()}
        self._outside = OutsideChanges()  # the weights that belong to the state may come before it or after it

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "_probe": None,
            "_adds_up": False,
            "_mark": None,
            "_versions": {},
            "_optimised": set(),
            "_outside": OutsideChanges(),
        }
