"""Importance passes: ours, and Avalanche's. Those of other libraries are in ``libraries``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from clreg_plugins import fisher_diagonal, mas_importance
from study.bench.plugins import AVALANCHE, THEIRS, strategy_stub
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
        random: it draws at random, so that its numbers cannot be compared.
        training_mode: it measures in training mode, so that its numbers differ from ours where there is BatchNorm.
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

    def measured(importance: Callable[..., Importance], **options: object) -> Measure:
        def measure(model: nn.Module, images: Images, _: int) -> Importance:
            return importance(model, InMemoryLoader([images.inputs, images.targets], READ_AT_ONCE), **options)

        return measure

    def batched(importance: Callable[..., Importance], **options: object) -> Measure:
        def measure(model: nn.Module, images: Images, _: int) -> Importance:
            return importance(model, images.dataset, batch_size=STEP_BATCH, **options)

        return measure

    return [
        Pass("exact Fisher", CLREG, measured(fisher_diagonal, variant="exact")),
        Pass("sample Fisher", CLREG, measured(fisher_diagonal, variant="sample"), random=True),
        Pass("empirical Fisher", CLREG, measured(fisher_diagonal, variant="empirical")),
        Pass("MAS", CLREG, measured(mas_importance)),
        Pass("batched Fisher", CLREG, batched(fisher_diagonal, variant="batched")),
        Pass("batched MAS", CLREG, batched(mas_importance, per_sample=False)),
    ]


def avalanche() -> list[Pass]:
    """Avalanche's own passes."""
    training = "Avalanche's MAS measures in training mode: with BatchNorm its numbers differ from ours."
    return [
        Pass("batched Fisher", AVALANCHE, partial(_avalanche, method="EWC")),
        Pass("batched MAS", AVALANCHE, partial(_avalanche, method="MAS"), training_mode=True, note=training),
    ]


def _avalanche(model: nn.Module, images: Images, _: int, *, method: str) -> Importance:
    plugin, strategy = THEIRS[method](), strategy_stub(model, batch=STEP_BATCH)
    strategy.experience.dataset = images.dataset
    if method == "MAS":
        found = plugin._get_importance(strategy)
    else:
        settings = (strategy._criterion, strategy.optimizer, images.dataset, strategy.device, strategy.train_mb_size)
        found = plugin.compute_importances(model, *settings)
    return {name: entry.data for name, entry in found.items()}
