"""The plugins whose steps are measured: ours, Avalanche's, and the penalty as one would write it down."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EWCPlugin as AvalancheEWC
from avalanche.training.plugins import MASPlugin as AvalancheMAS
from avalanche.training.plugins import SynapticIntelligencePlugin as AvalancheSI
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clreg_plugins import EWCPlugin, L2Plugin, MASPlugin, OnlineEWCPlugin, RegularizationPlugin, SIPlugin
from study.run.peers import SynapticIntelligenceOnCopies

Factory = Callable[..., SupervisedPlugin]


class PlainPenalty(SupervisedPlugin, supports_distributed=True):
    """``λ/2 Σ_t Σ_i Ω_ti (θ_i − θ*_ti)²`` by autograd, term by term, as most code is written.

    The importances are random numbers: a step does not depend on what they are.

    Args:
        separate: keep every experience's term; else only the latest.
        path_integral: accumulate ω as SI does, from the gradient of the whole loss.
    """

    def __init__(self, *, separate: bool = False, path_integral: bool = False) -> None:
        super().__init__()
        self.separate = separate
        self.path_integral = path_integral
        self.terms: list[list[tuple[Tensor, Tensor]]] = []
        self.before: list[Tensor] = []
        self.omega: list[Tensor] = []

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Add the penalty to the loss."""
        for term in self.terms:
            for p, (importance, anchor) in zip(strategy.model.parameters(), term, strict=True):
                strategy.loss = strategy.loss + 0.5 * (importance * (p - anchor) ** 2).sum()

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Remember θ."""
        if self.path_integral:
            self.before = [p.detach().clone() for p in strategy.model.parameters()]

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """ω ← ω − g·Δθ."""
        if self.path_integral:
            self.omega = self.omega or [torch.zeros_like(before) for before in self.before]
            for omega, p, before in zip(self.omega, strategy.model.parameters(), self.before, strict=True):
                omega -= p.grad * (p.detach() - before)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Keep one more term, or replace the one."""
        anchors = [p.detach().clone() for p in strategy.model.parameters()]
        term = [(torch.rand_like(anchor), anchor) for anchor in anchors]
        self.terms = [*self.terms, term] if self.separate else [term]


OURS: dict[str, Callable[..., RegularizationPlugin]] = {
    "L2": lambda **options: L2Plugin(1.0, **options),
    "EWC": lambda **options: EWCPlugin(1.0, fisher="empirical", **options),
    "Online EWC": lambda **options: OnlineEWCPlugin(1.0, fisher="empirical", **options),
    "MAS": lambda **options: MASPlugin(1.0, **options),
    "SI": lambda **options: SIPlugin(1.0, **options),
}
AVALANCHE: dict[str, Factory] = {
    "EWC": lambda: AvalancheEWC(1.0),
    "Online EWC": lambda: AvalancheEWC(1.0, mode="online", decay_factor=1.0),
    "MAS": lambda: AvalancheMAS(1.0),
    "SI": lambda: AvalancheSI(1.0),
}
PLAIN: dict[str, Factory] = {
    "L2": PlainPenalty,
    "EWC": lambda: PlainPenalty(separate=True),
    "Online EWC": PlainPenalty,
    "MAS": PlainPenalty,
    "SI": lambda: PlainPenalty(path_integral=True),
}


DIRECT: dict[str, Factory] = {method: partial(make, gradient_path="direct") for method, make in OURS.items()}
"""Ours with the gradient added to ``p.grad`` as the backward pass ends."""

KINDS: dict[str, dict[str, Factory]] = {
    "ours": OURS,
    "ours, direct": DIRECT,
    "Avalanche": AVALANCHE,
    "Avalanche, mended": {"SI": lambda: SynapticIntelligenceOnCopies(1.0)},
    "plain autograd": PLAIN,
}
"""By who wrote the plugin: a factory for each method. Whoever's name begins with "ours" is held to the targets."""

NOTES = {
    ("SI", "Avalanche"): "on a CPU Avalanche's SI remembers the parameters themselves, not copies: it never sees one "
    "move, and penalises nothing, so it is timed as it is and, mended, with copies"
}


class StrategyStub(SimpleNamespace):
    """What a plugin asks of a strategy, without the rest of Avalanche."""

    mbatch: list[Tensor]

    def _unpack_minibatch(self) -> None:
        self.mbatch = [part.to(self.device) for part in self.mbatch]

    @property
    def mb_y(self) -> Tensor:
        """Targets of the minibatch."""
        return self.mbatch[1]

    def forward(self) -> Tensor:
        """The model's output on the minibatch."""
        return self.model(self.mbatch[0])


def strategy_stub(model: nn.Module, *, batch: int = 128) -> StrategyStub:
    """A strategy with the model, a fused Adam and the criterion.

    ``experience.dataset`` is None until one is given; ``clock.train_exp_counter`` is 0.
    """
    return StrategyStub(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-4, fused=True),
        device=next(model.parameters()).device,
        experience=SimpleNamespace(dataset=None),
        clock=SimpleNamespace(train_exp_counter=0),
        train_mb_size=batch,
        _criterion=nn.CrossEntropyLoss(),
        loss=None,
    )


def training_step(
    strategy: StrategyStub, plugin: SupervisedPlugin, inputs: Tensor, targets: Tensor
) -> Callable[[], None]:
    """One step as Avalanche's strategies make it, every callback in its place."""

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


def learn(plugin: SupervisedPlugin, strategy: StrategyStub, images: tuple[Tensor, Tensor], experiences: int) -> None:
    """Take a plugin to the first step of the experience after so many, each of one step on a few images."""
    inputs, targets = images
    strategy.experience.dataset = TensorDataset(inputs.cpu(), targets.cpu())
    step = training_step(strategy, plugin, inputs, targets)
    for index in range(experiences + 1):
        strategy.clock.train_exp_counter = index
        plugin.before_training_exp(strategy)
        plugin.before_training_epoch(strategy)
        strategy.model.train()
        if index < experiences:
            step()
            plugin.after_training_exp(strategy)
