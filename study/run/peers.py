"""Avalanche's own plugins, to be run beside ours on the same protocols."""

from collections.abc import Mapping
from typing import Any

from avalanche.training.plugins import SynapticIntelligencePlugin
from avalanche.training.utils import ParamData


class SynapticIntelligenceOnCopies(SynapticIntelligencePlugin):
    """Avalanche's SI on a CPU as it is on a GPU.

    Where it remembers the parameters it calls ``.cpu()`` on them, which is a copy on a GPU, and on a CPU the parameters
    themselves: none is ever seen to move, so that all importance is 0, and the anchor moves along. Here those two
    memories are copies; nothing else is changed.
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
