"""Importance passes: ours, and Avalanche's. Those of other libraries are in ``libraries``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from clreg_plugins import fisher_diagonal, kronecker_factors, mas_importance
from study.bench.plugins import AVALANCHE, THEIRS, StrategyStub
from study.bench.record import CLREG
from study.bench.workloads import Images
from study.run.batches import InMemoryLoader

Importance = Mapping[str, Tensor]
Measure = Callable[[nn.Module, Images, int], Importance]
"""``(model, images, batch size) -> importance by parameter name``."""

READ_AT_ONCE = 1024
"""Samples of a batch of ours; the pass cuts it to fit its memory."""

STEP_BATCH = 128
"""Samples of a batch whose mean gradient is squared."""


@dataclass(frozen=True)
class Pass:
    """One way to measure an importance.

    Attributes:
        computes: "exact Fisher"; passes that compute the same have to agree.
        by: the library.
        measure: runs it.
        chooses_batch: it runs with the batch size that suits it best.
        random: it draws at random, so its numbers cannot be compared.
        training_mode: it measures in training mode, so its numbers differ from ours where there is BatchNorm.
        note: shown below the table.
    """

    computes: str
    by: str
    measure: Measure
    chooses_batch: bool = False
    random: bool = False
    training_mode: bool = False
    note: str = ""


def ours() -> list[Pass]:
    """The importances that the plugins offer, from images in memory; batch means from a dataset, as Avalanche does."""
    return [
        Pass("exact Fisher", CLREG, partial(_ours, fisher_diagonal, variant="exact")),
        Pass("exact Kronecker factors", CLREG, partial(_ours, _factors, variant="exact")),
        Pass("sample Fisher", CLREG, partial(_ours, fisher_diagonal, variant="sample"), random=True),
        Pass("empirical Fisher", CLREG, partial(_ours, fisher_diagonal, variant="empirical")),
        Pass("MAS", CLREG, partial(_ours, mas_importance)),
        Pass("batched Fisher", CLREG, partial(_ours, fisher_diagonal, variant="batched", batch_size=STEP_BATCH)),
        Pass("batched MAS", CLREG, partial(_ours, mas_importance, per_sample=False, batch_size=STEP_BATCH)),
    ]


def _factors(model: nn.Module, data: Any, **options: Any) -> Importance:
    factors = kronecker_factors(model, data, **options)
    by_name = {f"{layer}.{kind}": getattr(f, kind) for layer, f in factors.items() for kind in ("inputs", "outputs")}
    return by_name | factors.diagonal


def _ours(measure: Callable[..., Importance], model: nn.Module, images: Images, _: int, **options: Any) -> Importance:
    in_memory = InMemoryLoader([images.inputs, images.targets], READ_AT_ONCE)
    return measure(model, images.dataset if "batch_size" in options else in_memory, **options)


def avalanche() -> list[Pass]:
    """Avalanche's own passes."""
    training = "Avalanche's MAS measures in training mode: with BatchNorm its numbers differ from ours."
    return [
        Pass("batched Fisher", AVALANCHE, partial(_avalanche, method="EWC")),
        Pass("batched MAS", AVALANCHE, partial(_avalanche, method="MAS"), training_mode=True, note=training),
    ]


def _avalanche(model: nn.Module, images: Images, _: int, *, method: str) -> Importance:
    plugin, strategy = THEIRS[method](), StrategyStub(model, batch=STEP_BATCH)
    strategy.experience.dataset = images.dataset
    if method == "MAS":
        found = plugin._get_importance(strategy)
    else:
        settings = (strategy._criterion, strategy.optimizer, images.dataset, strategy.device, strategy.train_mb_size)
        found = plugin.compute_importances(model, *settings)
    return {name: entry.data for name, entry in found.items()}
