"""Elastic Weight Consolidation with Kronecker factors in place of a diagonal."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Unpack

from clreg_plugins.checks import one_of, whole
from clreg_plugins.ewc import OnlineEWCPlugin
from clreg_plugins.factors import KroneckerFactors
from clreg_plugins.importance.engine.factors import MAX_WIDTH, WEIGHT_SHARING
from clreg_plugins.importance.kronecker_factors import FACTOR_VARIANTS, kronecker_factors
from clreg_plugins.importance.options import ReadingOptions
from clreg_plugins.kronecker import KroneckerPenalty


class KFACPlugin(OnlineEWCPlugin, supports_distributed=True):
    """Online EWC whose curvature has Kronecker factors (Ritter, Botev and Barber 2018).

    ``L = L_task + λ/2 · Σ_layers tr(Δᵀ G Δ A)`` with Δ = W − W*, the bias folded in, at the latest anchor. After each
    experience ``H ← γ H + F`` layer by layer, where one Kronecker product replaces the sum of two, so that memory and
    time at experience 100 are those at experience 1. Parameters without factors (normalisation, bare parameters, layers
    that are called twice) keep the diagonal: ``paths`` says which.

    A step costs two matrix products per layer, of the size of the factors. See ``docs/kronecker_factors.md``.

    Args:
        reg_lambda: λ ≥ 0, or one λ_t for each experience, as for :class:`EWCPlugin`.
        fisher: "exact", "sample", "predicted" or "empirical"; see :func:`kronecker_factors`.
        gamma: γ, in [0, 1].
        weight_sharing: "expand" or "reduce", see :func:`kronecker_factors`.
        max_width: rows of the widest factor; layers that need a wider one keep the diagonal.
        likelihood: as for :class:`EWCPlugin`, like every further argument.
        draws: as for :class:`EWCPlugin`.
        class_dim: as for :class:`EWCPlugin`.
        consolidation: as for :class:`EWCPlugin`.
        **options: see :class:`ReadingOptions`.

    Attributes:
        penalty: the :class:`KroneckerPenalty` so far; its ``layers`` hold A, G and the errors of merges.
        importance: the diagonal of the whole curvature.

    Raises:
        ValueError: as for :class:`OnlineEWCPlugin`.

    Example:
        >>> KFACPlugin(10.0, fisher="empirical").weight_sharing
        'expand'
    """

    penalty: KroneckerPenalty

    def __init__(
        self,
        reg_lambda: float | Sequence[float],
        *,
        fisher: str = "exact",
        gamma: float = 1.0,
        weight_sharing: str = "expand",
        max_width: int = MAX_WIDTH,
        likelihood: str | None = None,
        draws: int = 1,
        class_dim: int = 1,
        consolidation: str = "experience",
        **options: Unpack[ReadingOptions],
    ) -> None:
        one_of("fisher", fisher, FACTOR_VARIANTS)
        one_of("weight_sharing", weight_sharing, WEIGHT_SHARING)
        whole("max_width", max_width, 1)
        self.weight_sharing, self.max_width = weight_sharing, max_width
        super().__init__(
            reg_lambda,
            gamma=gamma,
            fisher=fisher,
            likelihood=likelihood,
            draws=draws,
            class_dim=class_dim,
            consolidation=consolidation,
            **options,
        )

    def _new_penalty(self) -> KroneckerPenalty:
        return KroneckerPenalty()

    def _of_trained(self, importance: Mapping[str, Any]) -> Mapping[str, Any]:
        return importance  # frozen parameters are in no layer's factors, and 0 in the diagonal

    @property
    def _pass(self) -> Callable[..., KroneckerFactors]:
        return partial(kronecker_factors, weight_sharing=self.weight_sharing, max_width=self.max_width)
