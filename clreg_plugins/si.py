"""Synaptic Intelligence."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clreg_plugins.checks import boolean, mapping, one_of, strength
from clreg_plugins.flat import FlatTensors
from clreg_plugins.held import held_of_state
from clreg_plugins.importance import path_integral
from clreg_plugins.outside_changes import OutsideChanges
from clreg_plugins.penalty import QuadraticPenalty, castable
from clreg_plugins.plugin import RegularizationPlugin
from clreg_plugins.task_gradient import TaskGradient

GRADIENT = ("task", "total")


class SIPlugin(RegularizationPlugin, supports_distributed=True):
    """A parameter is important if its path through training lowered the loss (Zenke, Poole and Ganguli 2017).

    ``ω ← ω − g·Δθ`` at each step, with Δθ the change that the optimizer really made (equation 3), and at the end of an
    experience ``Ω ← max(Ω + ω/(Δ² + ξ), 0)`` with Δ the change over the whole of it (equations 4 and 5).

    g is read after the backward pass, whatever ``strategy.loss`` was scaled by behind this plugin (see
    :class:`~clreg_plugins.task_gradient.TaskGradient`); a plugin that rewrites gradients in ``after_backward`` should
    stand behind this one. Where a parameter has no gradient but the penalty's, what is left as g is rounding, of the
    order of ε times that. All state lives on the parameters' device, and no step moves data to the host or waits for a
    device.

    When Avalanche's ``EarlyStoppingPlugin`` puts the best weights back, ω becomes that of the path to them. After any
    other change outside the optimizer (weights averaged, clipped or restored), there is one warning per experience: ω
    holds the optimizer's whole path, and Δ is the change to the weights as they are at consolidation. See
    :class:`~clreg_plugins.outside_changes.OutsideChanges`.

    Args:
        reg_lambda: λ ≥ 0; 2c of Zenke et al.
        xi: ξ > 0, the damping, which float32 must hold.
        gradient: "task" takes the gradient of the loss without this plugin's penalty, as the authors' code does;
            "total" takes that of the whole loss.
        clip: False keeps negative totals of Ω, as some published code does.
        consolidation: "experience" or "manual", see :class:`RegularizationPlugin`.

    Raises:
        ValueError: an argument outside what is allowed.

    Example:
        >>> SIPlugin(2.0, xi=0.1)
        SIPlugin(reg_lambda=2.0, xi=0.1, gradient='task', clip=True, consolidation='experience')
    """

    def __init__(
        self,
        reg_lambda: float,
        *,
        xi: float = 0.1,
        gradient: str = "task",
        clip: bool = True,
        consolidation: str = "experience",
    ) -> None:
        super().__init__(strength(reg_lambda), consolidation=consolidation)
        one_of("gradient", gradient, GRADIENT)
        self.xi = path_integral.checked_damping(xi)
        self.gradient = gradient
        self.clip = boolean("clip", clip)
        self._omega = FlatTensors({})
        self._task_gradient = TaskGradient()
        self._outside = OutsideChanges()

    @property
    def path_integral(self) -> dict[str, Tensor]:
        """A copy of ω of the experience under way, by parameter name."""
        return self._omega.copies()

    # ----------------------------------------- callbacks, in the order in which they fire

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Look up the parameters again, and note how many updates the epoch has."""
        super().before_training_epoch(strategy, **kwargs)
        self._outside.begin_epoch(strategy)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """See whether this iteration's gradients add to those of the latest backward pass."""
        self._task_gradient.begin()

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Add the penalty, and the probe that receives the scale of the loss."""
        super().before_backward(strategy, **kwargs)
        strategy.loss = self._task_gradient.add_probe(strategy.loss)

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Read g."""
        super().after_backward(strategy, **kwargs)
        penalty = self._work if self.gradient == "task" and self._penalises else None
        # g and then θ take the memory of the step's penalty, which is read here for the last time
        self._task_gradient.read(strategy, self._parameters, penalty, into=self._work.difference)

    @torch.no_grad()
    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Remember θ, which may have changed since the latest update."""
        self._outside.look(strategy, self._parameters, self._omega)
        before = self._work.product
        torch._foreach_copy_(list(before.values()), self._weights())
        self._task_gradient.before_update()

    @torch.no_grad()
    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """ω ← ω − g·Δθ (equation 3)."""
        _, g, before, _ = self._work
        stepped = self._task_gradient.after_update(before)
        torch._foreach_sub_(list(before.values()), self._weights())
        for name in self._task_gradient.not_optimised:  # it may be infinite, like that of a skipped step
            g[name].masked_fill_(before[name] == 0, 0)
        for kind, omega in self._omega.buffers.items():
            gradient, decrease = g.buffers[kind], before.buffers[kind]
            if not stepped:
                gradient.masked_fill_(decrease == 0, 0)
            path_integral.accumulate(omega, gradient, decrease)
        self._outside.updated(self._parameters)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Raise the errors that steps deferred; then warn of changes outside the optimizer found since."""
        super().after_training_epoch(strategy, **kwargs)
        self._outside.end_epoch(self._parameters)

    # ------------------------------------------------------------------ consolidation

    def _measure(self, strategy: Any, data: Any) -> dict[str, Tensor]:
        """ω/(Δ² + ξ) (equation 5)."""
        self._outside.look(strategy, self._parameters, self._omega, wait=True)
        importance = {}
        for name, omega in self._omega.items():
            if name in self._parameters:
                displacement = self._parameters[name].detach().to(omega) - self.penalty.anchor[name]
                importance[name] = path_integral.importance(omega, displacement, self.xi)
        return importance

    def _consolidate(self, importance: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> None:
        self.penalty.recenter(importance, anchor, clip=True if self.clip else None)
        for omega in self._omega.buffers.values():
            omega.zero_()
        self._outside.end_experience()

    def _bind(self, strategy: Any) -> None:
        super()._bind(strategy)
        places = self.penalty.importance.places
        if self._omega.places is not places:
            self._omega = self._omega.grown(places)

    def _weights(self) -> list[Tensor]:
        """θ by the names of ω; the anchor for parameters that the model no longer has."""
        return [castable(self._parameters.get(name, anchor)) for name, anchor in self.penalty.anchor.items()]

    # -------------------------------------------------------------------------- state

    def _extra_state(self) -> dict[str, Any]:
        return {"path_integral": self._omega.copies()}

    @property
    def _keeps_negative(self) -> bool:
        return not self.clip

    def _load_extra_state(self, state: Mapping[str, Any], penalty: QuadraticPenalty) -> None:
        path, places = mapping("path_integral of the state", state["path_integral"]), penalty.importance.places
        if path.keys() != places.keys():
            raise ValueError("path_integral and importance of the state must hold tensors by the same parameter names")
        self._omega = FlatTensors({}).grown(places, held_of_state("path_integral", path, places))
        self._outside = OutsideChanges()  # the weights that belong to the state may come before it or after it
