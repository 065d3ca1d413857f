"""The kinds of importance pass that are compared: every variant of ours, one sample at a time, and Avalanche's.

A pass is a function of a model and its images. Those of other libraries are in ``other_libraries``.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clreg_plugins import fisher_diagonal, mas_importance
from clreg_plugins.importance.engine.data import JOINED
from study.bench.plugins import AVALANCHE, strategy_stub
from study.run.batches import InMemoryLoader

Moments = Mapping[str, Tensor]
Measure = Callable[[nn.Module, Tensor, Tensor, int], Moments]
"""(model, inputs, targets, samples that it should take at a time) -> importance by parameter name."""

OURS, LOOP = "ours", "one at a time"
ONLY = 500
"""Samples of the pass that leaves the others out."""

STEP_BATCH = 128
"""Samples at a time where the gradient of a batch's mean is what is measured."""


@dataclass(frozen=True)
class Pass:
    """One way to measure an importance.

    Attributes:
        computes: what; two passes that compute the same should agree.
        by: who computes it.
        measure: does it.
        random: it draws at random, so that only the sum of all entries can be compared.
        note: what to know about it.
        batch_statistics: it measures in training mode, so that where there is BatchNorm its numbers are others.
        all_classes_at_once: it holds something for each sample and class, so that with more classes it can take fewer
            samples at a time.
        only: it looks at so many samples only, drawn at random, however many there are; None for all.
    """

    computes: str
    by: str
    measure: Measure
    random: bool = False
    note: str = ""
    batch_statistics: bool = False
    all_classes_at_once: bool = False
    only: int | None = None

    @property
    def name(self) -> str:
        """In tables."""
        return f"{self.computes}, {self.by}"


# ------------------------------------------------------------------------------------------------------- ours


def _of_ours(importance: Callable[..., Moments], batch: int | None = None, **options: object) -> Measure:
    def measure(model: nn.Module, inputs: Tensor, targets: Tensor, _: int) -> Moments:
        return importance(model, InMemoryLoader([inputs, targets], batch or JOINED), **options)

    return measure


_fisher, _mas = partial(_of_ours, fisher_diagonal), partial(_of_ours, mas_importance)


def ours() -> list[Pass]:
    """Every variant that the plugins offer."""
    note = f"{ONLY} samples, in epochs over all of them"
    return [
        Pass("exact Fisher", OURS, _fisher(variant="exact")),
        Pass(f"exact Fisher, n = {ONLY}", OURS, _fisher(variant="exact", n_samples=ONLY), note=note, only=ONLY),
        Pass("sample Fisher", OURS, _fisher(variant="sample"), random=True),
        Pass("predicted Fisher", OURS, _fisher(variant="predicted")),
        Pass("empirical Fisher", OURS, _fisher(variant="empirical")),
        Pass("batched Fisher", OURS, _fisher(STEP_BATCH, variant="batched")),
        Pass("MAS, squared norm", OURS, _mas()),
        Pass("MAS, vector", OURS, _mas(output="vector")),
        Pass("batched MAS", OURS, _mas(STEP_BATCH, per_sample=False)),
    ]


# ----------------------------------------------------------------------------------------- one sample at a time


Scores = Callable[[Tensor, Tensor], Iterator[Tensor]]
"""The outputs of one sample and its target -> scalars whose gradients are squared and summed."""


def _exact_scores(z: Tensor, _: Tensor) -> Iterator[Tensor]:
    log_pi = F.log_softmax(z, dim=0)
    for root, log in zip(log_pi.detach().exp().sqrt(), log_pi, strict=True):
        yield root * log


def _empirical_scores(z: Tensor, y: Tensor) -> Iterator[Tensor]:
    yield F.log_softmax(z, dim=0)[y]


def _predicted_scores(z: Tensor, _: Tensor) -> Iterator[Tensor]:
    yield F.log_softmax(z, dim=0)[z.argmax()]


def _norm_scores(z: Tensor, _: Tensor) -> Iterator[Tensor]:
    yield z.square().sum()


def _output_scores(z: Tensor, _: Tensor) -> Iterator[Tensor]:
    yield from z


def _one_at_a_time(
    model: nn.Module, inputs: Tensor, targets: Tensor, _: int, *, scores: Scores, power: int = 2
) -> Moments:
    parameters = dict(model.named_parameters())
    totals = {name: torch.zeros_like(p) for name, p in parameters.items()}
    model.eval()
    for x, y in zip(inputs, targets, strict=True):
        squares = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for score in scores(model(x.unsqueeze(0))[0], y):
            gradients = torch.autograd.grad(score, list(parameters.values()), retain_graph=True)
            for square, gradient in zip(squares.values(), gradients, strict=True):
                square += gradient.square()
        for name, square in squares.items():
            totals[name] += square if power == 2 else square.sqrt()
    return {name: total / len(inputs) for name, total in totals.items()}


def one_at_a_time() -> list[Pass]:
    """The usual loop, which every other pass is compared with."""
    kinds: dict[str, tuple[Scores, Literal[1, 2]]] = {
        "exact Fisher": (_exact_scores, 2),
        "empirical Fisher": (_empirical_scores, 2),
        "predicted Fisher": (_predicted_scores, 2),
        "MAS, squared norm": (_norm_scores, 1),
        "MAS, vector": (_output_scores, 1),
    }
    return [
        Pass(computes, LOOP, partial(_one_at_a_time, scores=scores, power=power))
        for computes, (scores, power) in kinds.items()
    ]


# ------------------------------------------------------------------------------------------------- Avalanche


def _avalanche(model: nn.Module, inputs: Tensor, targets: Tensor, _: int, *, method: str) -> Moments:
    plugin, strategy = AVALANCHE[method](), strategy_stub(model, batch=STEP_BATCH)
    strategy.experience.dataset = TensorDataset(inputs.cpu(), targets.cpu())
    if method == "MAS":
        found = plugin._get_importance(strategy)
    else:
        settings = (strategy._criterion, strategy.optimizer, strategy.experience.dataset, strategy.device)
        found = plugin.compute_importances(model, *settings, strategy.train_mb_size)
    return {name: entry.data for name, entry in found.items()}


def avalanche() -> list[Pass]:
    """Avalanche's own passes, which read the samples one by one from a dataset."""
    reading = "reads the samples one by one from a dataset"
    in_training = f"{reading}, and in training mode, so that with BatchNorm it is another quantity than ours"
    return [
        Pass("batched Fisher", "Avalanche", partial(_avalanche, method="EWC"), note=reading),
        Pass("batched MAS", "Avalanche", partial(_avalanche, method="MAS"), note=in_training, batch_statistics=True),
    ]
