"""Avalanche's plugins, for comparison on the same protocols."""

from collections.abc import Mapping
from typing import Any

from avalanche.training.plugins import SynapticIntelligencePlugin
from avalanche.training.utils import ParamData


class SynapticIntelligenceOnCopies(SynapticIntelligencePlugin):
    """Avalanche's SI with the same behaviour on a CPU as on a GPU.

    Avalanche stores parameters by ``.cpu()``, which copies on a GPU but returns the parameters themselves on a CPU,
    where importance is then 0 and the anchor moves along. Here the stored parameters are copies; nothing else changes.
    """

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().before_training_exp(strategy, **kwargs)
        _copy(self.ewc_data[0])

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        super().before_training_iteration(strategy, **kwargs)
        _copy(self.syn_data["old_theta"])


def _copy(remembered: Mapping[str, ParamData]) -> None:
    for entry in remembered.values():
        entry.data = entry.data.clone()
