"""Methods in a protocol -> Avalanche strategies and plugins."""

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EWCPlugin as AvalancheEWCPlugin
from avalanche.training.plugins import LwFPlugin, SynapticIntelligencePlugin
from avalanche.training.supervised import Cumulative as CumulativeTraining
from avalanche.training.supervised import JointTraining, Naive
from torch import nn

from clreg_plugins import EWCPlugin, L2Plugin, MASPlugin, OnlineEWCPlugin, SIPlugin
from study.protocol.settings import (
    EWC,
    L2,
    MAS,
    SI,
    AvalancheEWC,
    AvalancheSI,
    Cumulative,
    Joint,
    LwF,
    Method,
    OnlineEWC,
    Replay,
    Training,
)
from study.run.baselines import ReplayMemory
from study.run.batches import InMemoryBatches
from study.run.data import Encoding
from study.run.models import parameter_bytes
from study.run.peers import SynapticIntelligenceOnCopies

PASS_BATCH = 256
"""Samples at a time of an importance pass over single samples, where a protocol does not say: with the plugins' own
default, which may change, sums would be formed in another order than in records from before."""

PLUGIN = {L2: L2Plugin, EWC: EWCPlugin, OnlineEWC: OnlineEWCPlugin, MAS: MASPlugin, SI: SIPlugin}
STRATEGY = {Joint: JointTraining, Cumulative: CumulativeTraining}


def strategy_of(method: Method) -> type[Naive]:
    return STRATEGY.get(type(method), Naive)


def build_plugin(
    method: Method,
    strength: float | None,
    seed: int,
    *,
    model: nn.Module,
    batches: InMemoryBatches,
    encoding: Encoding,
) -> SupervisedPlugin | None:
    """The plugin of a method; None for a method that is a strategy.

    Args:
        method: its kind and options.
        strength: λ.
        seed: of the method's random draws.
        model, batches, encoding: for a memory of examples.
    """
    if isinstance(method, Replay):
        return ReplayMemory(method, batches, encoding, parameter_bytes(model), seed)
    if isinstance(method, LwF):
        return LwFPlugin(alpha=strength, temperature=method.temperature)
    if isinstance(method, AvalancheEWC):
        return AvalancheEWCPlugin(strength, mode=method.mode, decay_factor=method.decay_factor)
    if isinstance(method, AvalancheSI):
        plugin = SynapticIntelligenceOnCopies if method.mended else SynapticIntelligencePlugin
        return plugin(strength, eps=method.eps)
    if type(method) not in PLUGIN:
        return None
    options = method.model_dump(exclude={"kind"})
    if isinstance(method, EWC | OnlineEWC):
        options["seed"] = seed
    if isinstance(method, EWC | OnlineEWC | MAS):
        options["batch_size"] = pass_batch(method)
    return PLUGIN[type(method)](strength, **options)


def pass_batch(method: EWC | OnlineEWC | MAS) -> int | None:
    """Batch size of a method's pass; None: that of training."""
    if isinstance(method, MAS):
        return PASS_BATCH if method.per_sample else None
    return method.batch_size or (None if method.fisher == "batched" else PASS_BATCH)


def build_optimizer(settings: Training, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a protocol; fused, since on a CPU PyTorch's default costs as much as a backward pass."""
    if settings.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=True)
    return torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=settings.momentum, fused=True)
