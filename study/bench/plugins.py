"""Plugins whose steps are measured, and a strategy that does no more than they need."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EWCPlugin as AvalancheEWC
from avalanche.training.plugins import MASPlugin as AvalancheMAS
from avalanche.training.plugins import SynapticIntelligencePlugin as AvalancheSI
from torch import Tensor, nn

from clreg_plugins import EWCPlugin, KFACPlugin, L2Plugin, MASPlugin, OnlineEWCPlugin, RegularizationPlugin, SIPlugin
from study.bench.record import CLREG
from study.bench.workloads import Images
from study.run.methods import SynapticIntelligenceOnCopies

AVALANCHE, CORRECTED = "Avalanche", "Avalanche, corrected"

OURS: dict[str, Callable[[], RegularizationPlugin]] = {
    "L2": lambda: L2Plugin(1.0),
    "EWC": lambda: EWCPlugin(1.0, fisher="empirical"),  # a step does not depend on the variant
    "Online EWC": lambda: OnlineEWCPlugin(1.0, fisher="empirical"),
    "KFAC": lambda: KFACPlugin(1.0, fisher="empirical"),
    "MAS": lambda: MASPlugin(1.0),
    "SI": lambda: SIPlugin(1.0),
}
THEIRS: dict[str, Callable[[], SupervisedPlugin]] = {
    "EWC": lambda: AvalancheEWC(1.0),
    "Online EWC": lambda: AvalancheEWC(1.0, mode="online", decay_factor=1.0),
    "MAS": lambda: AvalancheMAS(1.0),
    "SI": lambda: AvalancheSI(1.0),
}
PLUGINS: dict[str, dict[str, Callable[[], SupervisedPlugin]]] = {
    CLREG: OURS,
    AVALANCHE: THEIRS,
    CORRECTED: {"SI": lambda: SynapticIntelligenceOnCopies(1.0)},
}
"""A factory by library and method."""

NOTES = {
    ("SI", AVALANCHE): "Avalanche's SI remembers the parameters by `.cpu()`. On a GPU that copies them to the host at "
    "every step; on a CPU it copies nothing, so that SI sees no change and penalises nothing. Corrected, it copies."
}


class StrategyStub(SimpleNamespace):
    """The attributes of a strategy that plugins read: a fused Adam and cross-entropy; no dataset yet."""

    def __init__(self, model: nn.Module, *, batch: int = 128) -> None:
        super().__init__(
            model=model,
            optimizer=torch.optim.Adam(model.parameters(), lr=1e-4, fused=True),
            device=next(model.parameters()).device,
            experience=SimpleNamespace(dataset=None),
            clock=SimpleNamespace(train_exp_counter=0),
            train_mb_size=batch,
            _criterion=nn.CrossEntropyLoss(),
            loss=None,
        )

    def _unpack_minibatch(self) -> None:
        self.mbatch = [part.to(self.device) for part in self.mbatch]

    @property
    def mb_y(self) -> Tensor:
        return self.mbatch[1]

    def forward(self) -> Tensor:
        return self.model(self.mbatch[0])


def training_step(
    strategy: StrategyStub, plugin: SupervisedPlugin, inputs: Tensor, targets: Tensor
) -> Callable[[], None]:
    """One step with every callback that Avalanche's strategies make."""

    def step() -> None:
        plugin.before_training_iteration(strategy)
        strategy.optimizer.zero_grad()
        plugin.before_forward(strategy)
        strategy.mb_output = strategy.model(inputs)
        plugin.after_forward(strategy)
        strategy.loss = strategy._criterion(strategy.mb_output, targets)
        plugin.before_backward(strategy)
        strategy.loss.backward()
        plugin.after_backward(strategy)
        plugin.before_update(strategy)
        strategy.optimizer.step()
        plugin.after_update(strategy)
        plugin.after_training_iteration(strategy)

    return step


def learn(plugin: SupervisedPlugin, strategy: StrategyStub, images: Images, experiences: int) -> None:
    """Train this many experiences of one step each, and begin the next one."""
    strategy.experience.dataset = images.dataset
    step = training_step(strategy, plugin, images.inputs, images.targets)
    for index in range(experiences + 1):
        strategy.clock.train_exp_counter = index
        plugin.before_training_exp(strategy)
        plugin.before_training_epoch(strategy)
        strategy.model.train()
        if index < experiences:
            step()
            plugin.after_training_exp(strategy)
