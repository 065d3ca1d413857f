"""Methods in a protocol -> Avalanche strategies and plugins."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from avalanche.core import BasePlugin, SupervisedPlugin
from avalanche.training import plugins as avalanche_plugins
from avalanche.training.supervised import Cumulative, JointTraining, Naive
from avalanche.training.templates import SupervisedTemplate
from avalanche.training.templates.base import BaseTemplate
from avalanche.training.utils import ParamData
from torch import nn

from clreg_plugins import EWCPlugin, KFACPlugin, L2Plugin, MASPlugin, OnlineEWCPlugin, SIPlugin
from study.errors import ProtocolError
from study.protocol.own_code import build, resolve
from study.protocol.settings import EWC, KFAC, MAS, Method, OnlineEWC, OwnMethod, Training
from study.run.baselines import ReplayMemory
from study.run.batches import InMemoryBatches
from study.run.data import Encoding
from study.run.models import parameter_bytes


class SynapticIntelligenceOnCopies(avalanche_plugins.SynapticIntelligencePlugin):
    """Avalanche's SI with the same behaviour on a CPU as on a GPU.

    Avalanche stores parameters by ``.cpu()``, which copies on a GPU but returns the parameters themselves on a CPU,
    where importance is then 0 and the anchor moves along. Here the stored parameters are copies; nothing else changes.
    """

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().before_training_exp(strategy, **kwargs)
        self._copy(self.ewc_data[0])

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        super().before_training_iteration(strategy, **kwargs)
        self._copy(self.syn_data["old_theta"])

    def _copy(self, stored: Mapping[str, ParamData]) -> None:
        for entry in stored.values():
            entry.data = entry.data.clone()


PASS_BATCH = 256
"""Samples at a time of an importance pass over single samples, where a protocol does not say: with the plugins' own
default, which may change, sums would be formed in another order than in earlier records."""

PLUGIN = {  # by kind; each takes λ first
    "l2": L2Plugin,
    "ewc": EWCPlugin,
    "online_ewc": OnlineEWCPlugin,
    "kfac": KFACPlugin,
    "mas": MASPlugin,
    "si": SIPlugin,
    "lwf": avalanche_plugins.LwFPlugin,
    "avalanche_ewc": avalanche_plugins.EWCPlugin,
    "avalanche_si": avalanche_plugins.SynapticIntelligencePlugin,
}
STRATEGY = {"joint": JointTraining, "cumulative": Cumulative}


def build_strategy(
    method: Method, key: str, strength: float | None, seed: int, folder: Path, **common: Any
) -> SupervisedTemplate:
    """The strategy of a method.

    Args:
        method, key, strength, seed, folder: as in :func:`build_plugin`.
        common: the keywords of every strategy: model, optimizer, criterion, …
    """
    if _is_own_strategy(method, key, folder):
        return build(method, key, folder, {"seed": seed}, {**common, **_strength(method, strength)})
    return STRATEGY.get(method.kind, Naive)(**common)


def _is_own_strategy(method: Method, key: str, folder: Path) -> bool:
    """Whether a method is a strategy's class of the user's own.

    Raises:
        ProtocolError: it is one that the study cannot train.
    """
    kind = resolve(method, key, folder) if isinstance(method, OwnMethod) else None
    if not isinstance(kind, type) or not issubclass(kind, BaseTemplate):
        return False
    if not issubclass(kind, SupervisedTemplate) or issubclass(kind, JointTraining):
        problem = "allowed: a subclass of Avalanche's SupervisedTemplate; kind = 'joint' trains jointly"
    elif kind.make_train_dataloader is not SupervisedTemplate.make_train_dataloader:
        problem = "its make_train_dataloader would not be called; allowed: a plugin that sets strategy.dataloader"
    else:
        return True
    raise ProtocolError(f"{key}.kind = {method.kind!r}: {problem}")


def _strength(method: OwnMethod, strength: float | None) -> dict[str, float | None]:
    return {} if method.strength_argument is None else {method.strength_argument: strength}


def build_plugin(
    method: Method,
    strength: float | None,
    seed: int,
    *,
    key: str = "methods",
    folder: Path = Path(),
    model: nn.Module,
    batches: InMemoryBatches,
    encoding: Encoding | None,
) -> SupervisedPlugin | None:
    """The plugin of a method; None for a method that is a strategy.

    Args:
        method: its kind and options.
        strength: λ.
        seed: of the method's random draws.
        key: of the method in the protocol, for errors.
        folder: of the protocol file.
        model, batches, encoding: for a memory of examples.

    Raises:
        ProtocolError: a plugin of the user's own cannot be built.
    """
    if isinstance(method, OwnMethod):
        if _is_own_strategy(method, key, folder):
            return None
        plugin = build(method, key, folder, {"seed": seed}, _strength(method, strength))
        if not isinstance(plugin, BasePlugin):
            allowed = "allowed: a plugin or a strategy's class of Avalanche's"
            raise ProtocolError(f"{key}.kind = {method.kind!r}: it gives a {type(plugin).__name__}; {allowed}")
        return plugin
    if method.kind == "replay":
        return ReplayMemory(method, batches, encoding, parameter_bytes(model), seed)
    if method.kind not in PLUGIN:
        return None
    options = method.model_dump(exclude={"kind", "mended", "merge"})
    if isinstance(method, EWC | OnlineEWC | KFAC):
        options["seed"] = seed
    if isinstance(method, EWC | OnlineEWC | KFAC | MAS):
        options["batch_size"] = pass_batch(method)
    mended = method.kind == "avalanche_si" and method.mended
    return (SynapticIntelligenceOnCopies if mended else PLUGIN[method.kind])(strength, **options)


def pass_batch(method: EWC | OnlineEWC | KFAC | MAS) -> int | None:
    """Batch size of a method's pass; None: that of training."""
    if isinstance(method, MAS):
        return PASS_BATCH if method.per_sample else None
    return method.batch_size or (None if method.fisher == "batched" else PASS_BATCH)


def build_optimizer(settings: Training, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a protocol; fused, since on a CPU PyTorch's default costs as much as a backward pass."""
    if settings.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=True)
    if settings.optimizer == "adagrad":
        return torch.optim.Adagrad(model.parameters(), lr=settings.learning_rate, fused=True)
    return torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=settings.momentum, fused=True)
