"""L2 towards the latest parameters: the baseline of Kirkpatrick et al. 2017."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clreg_plugins.checks import strength
from clreg_plugins.plugin import RegularizationPlugin


class L2Plugin(RegularizationPlugin, supports_distributed=True):
    """Every parameter is equally important: ``L = L_task + λ/2 · Σ_i (θ_i − θ*_i)²``, θ* from the last experience.

    The baseline that EWC is compared with in Kirkpatrick et al. 2017 (figure 2A). Parameters that were frozen in
    the last experience, or that no experience has moved yet (a head of a task to come), have importance 0.

    Args:
        reg_lambda: λ ≥ 0.
        consolidation: "experience" or "manual", see :class:`RegularizationPlugin`.

    Raises:
        ValueError: an argument outside what is allowed.

    Example:
        >>> L2Plugin(0.01).reg_lambda
        0.01
    """

    def __init__(self, reg_lambda: float, *, consolidation: str = "experience") -> None:
        super().__init__(strength(reg_lambda), consolidation=consolidation)

    def _measure(self, strategy: Any, data: Any) -> dict[str, Tensor]:
        anchor, active = self.penalty.anchor, self.penalty.active
        return {
            name: torch.ones_like(anchor[name])
            for name, p in self._parameters.items()
            if p.requires_grad and (name in active or not torch.equal(p.detach().to(anchor[name]), anchor[name]))
        }

    def _consolidate(self, importance: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> None:
        self.penalty.recenter(importance, anchor, keep=0)
