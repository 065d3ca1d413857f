"""Memory Aware Synapses."""

from collections.abc import Mapping
from typing import Any, Unpack

from avalanche.models import IncrementalClassifier, MultiHeadClassifier
from torch import Tensor, nn

from clreg_plugins.checks import boolean, one_of, strength
from clreg_plugins.importance.engine.cotangents import OUTPUTS
from clreg_plugins.importance.engine.model import unwrap
from clreg_plugins.importance.mas import mas_importance
from clreg_plugins.importance.options import PassOptions, ReadingOptions
from clreg_plugins.plugin import RegularizationPlugin
from clreg_plugins.reading import DataImportance, rehearse

ACCUMULATE = ("average", "sum")


class MASPlugin(RegularizationPlugin, supports_distributed=True):
    """A parameter is important if the output is sensitive to it; needs no labels (Aljundi et al. 2018, section 4).

    ``Ω_i = 1/N Σ_n |∂‖z_n‖²/∂θ_i|``, averaged over all experiences so far (Aljundi et al. 2019) or summed (2018).

    Args:
        reg_lambda: λ ≥ 0.
        output: "squared_norm", "mean_square" or "vector"; see :func:`mas_importance`.
        accumulate: "average" or "sum".
        per_sample: False makes the gradient of a batch mean absolute, as FACIL, Avalanche and Hsu et al. 2018 do.
        consolidation: "experience" or "manual", see :class:`RegularizationPlugin`.
        **options: see :class:`ReadingOptions`.

    Raises:
        ValueError: an argument outside what is allowed; at the start of training, data or a model of which no
            importance can be measured.
        TypeError: an unknown argument.

    Example:
        >>> MASPlugin(1.0, accumulate="sum").output
        'squared_norm'
    """

    def __init__(
        self,
        reg_lambda: float,
        *,
        output: str = "squared_norm",
        accumulate: str = "average",
        per_sample: bool = True,
        consolidation: str = "experience",
        **options: Unpack[ReadingOptions],
    ) -> None:
        super().__init__(strength(reg_lambda), consolidation=consolidation)
        one_of("output", output, OUTPUTS)
        one_of("accumulate", accumulate, ACCUMULATE)
        self.output = output
        self.accumulate = accumulate
        self.per_sample = boolean("per_sample", per_sample)
        self.reading = DataImportance(type(self).__name__, **options)

    def _rehearse(self, strategy: Any) -> None:
        if strategy.experience is not None:
            with self.reading.rehearsal(strategy, 0, batches_matter=not self.per_sample) as (options, _):
                rehearse(self._experience_data(strategy, None), lambda few: self._sensitivity(strategy, few, options))

    def _measure(self, strategy: Any, data: Any) -> dict[str, Tensor]:
        data, batched = self._experience_data(strategy, data), not self.per_sample
        with self.reading.arguments(strategy, self.penalty.n_terms, batches_matter=batched) as (options, _):
            return self._sensitivity(strategy, data, options)

    def _sensitivity(self, strategy: Any, data: Any, options: PassOptions) -> dict[str, Tensor]:
        return mas_importance(
            strategy.model,
            data,
            output=self.output,
            per_sample=self.per_sample,
            mask_value=_mask_value(strategy.model),
            **options,
        )

    def _consolidate(self, importance: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> None:
        if self.accumulate == "sum":
            self.penalty.recenter(importance, anchor)
        else:
            n = self.penalty.n_terms
            self.penalty.recenter(importance, anchor, keep=n / (n + 1), weight=1 / (n + 1))


def _mask_value(model: nn.Module) -> float | None:
    """What Avalanche's classifiers write over the outputs that are not in use."""
    for module in unwrap(model).modules():
        if isinstance(module, (IncrementalClassifier, MultiHeadClassifier)) and module.masking:
            return module.mask_value
    return None
