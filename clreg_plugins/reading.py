"""How a plugin measures importance in a strategy: on the strategy's data, by the strategy's own forward."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sized
from typing import Any, Unpack

import numpy as np
import torch
import torch.distributed as dist
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.models.utils import is_multi_task_module
from avalanche.training.templates.problem_type.supervised_problem import SupervisedProblem
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from clreg_plugins.importance.engine.cotangents import LIKELIHOODS
from clreg_plugins.importance.engine.environment import random_states
from clreg_plugins.importance.engine.model import logits_of, unwrap
from clreg_plugins.importance.engine.snapshot import Snapshot
from clreg_plugins.importance.engine.totals import NoSampleCounts
from clreg_plugins.importance.options import READING_DEFAULTS, PassOptions, ReadingOptions, checked

PLAIN_CONTAINERS = (list, dict, set, deque, Tensor, np.ndarray)

REHEARSED_SAMPLES = 4
"""Samples of the experience on which a pass is rehearsed before training."""


class DataImportance:
    """How a plugin reads the data that it measures importance on.

    Args:
        plugin: its name, for messages.
        **options: see :class:`ReadingOptions`. Experience t draws from a stream of numbers of its own.
    """

    def __init__(self, plugin: str, **options: Unpack[ReadingOptions]) -> None:
        self.options: dict[str, Any] = checked(options, READING_DEFAULTS, plugin)

    @contextlib.contextmanager
    def arguments(
        self, strategy: Any, n_terms: int, *, batches_matter: bool
    ) -> Iterator[tuple[PassOptions, "Minibatches"]]:
        """The options of ``fisher_diagonal`` and ``mas_importance``, by which the strategy's forward runs.

        Args:
            strategy: in training; it is left as it was.
            n_terms: number of the experience.
            batches_matter: the result depends on the batch size, which is the strategy's by default.
        """
        default = strategy.train_mb_size if batches_matter else None
        minibatches = Minibatches(strategy)
        before = dict(vars(strategy))
        held = nn.Module()  # what the strategy's forward may write to, besides its attributes
        held.of_strategy = [v for name, v in before.items() if name != "plugins" and isinstance(v, PLAIN_CONTAINERS)]
        inside = Snapshot(held, 0)
        strategy.model = unwrap(strategy.model)  # DistributedDataParallel would prepare for a backward pass of its own
        try:
            options: PassOptions = {
                **self.options,
                "batch_size": self.options["batch_size"] or default,
                # a prime far above the number of batches in an experience
                "seed": (self.options["seed"] + 1_000_003 * n_terms) % 2**63,
                "forward": minibatches.forward,
                "unpack": minibatches.unpack,
                "distributed": dist.is_available() and dist.is_initialized(),
            }
            yield options, minibatches
        finally:
            vars(strategy).clear()
            vars(strategy).update(before)
            inside.restore()

    @contextlib.contextmanager
    def rehearsal(
        self, strategy: Any, n_terms: int, *, batches_matter: bool
    ) -> Iterator[tuple[PassOptions, "Minibatches"]]:
        """As :meth:`arguments`, for a few samples and in one process, whatever the options say of either."""
        with self.arguments(strategy, n_terms, batches_matter=batches_matter) as (options, minibatches):
            yield {**options, "n_samples": None, "num_workers": 0, "distributed": False}, minibatches


def rehearse(data: Any, measure: Callable[[Dataset], object]) -> None:
    """Measure on the first few of a dataset's samples; if none of them has a label that counts, on the next."""
    size = len(data) if isinstance(data, Sized) and hasattr(data, "__getitem__") else 0
    start, stop = 0, REHEARSED_SAMPLES
    while start < size:
        few = range(start, min(stop, size))
        try:
            return measure(data.subset(few) if isinstance(data, AvalancheDataset) else Subset(data, few))
        except NoSampleCounts:
            start, stop = stop, 4 * stop
            if start >= size:
                raise


class Minibatches:
    """The strategy's view of a batch: unpacked as its minibatches are, run by its ``forward``, with its ``mb_y``."""

    def __init__(self, strategy: Any) -> None:
        self.strategy = strategy
        self._first: tuple[Any, Tensor] | None = None  # a minibatch and its outputs

    def unpack(self, raw: Any) -> tuple:
        """(the whole minibatch, targets)."""
        strategy = self.strategy
        strategy.mbatch = [raw] if isinstance(raw, Tensor) else raw
        strategy._unpack_minibatch()
        minibatch = strategy.mbatch
        targets = strategy.mb_y if not isinstance(minibatch, (list, tuple)) or len(minibatch) > 1 else None
        if isinstance(minibatch, list) and len(minibatch) < 3 and self._task_aware:
            if is_multi_task_module(strategy.model):
                raise ValueError(
                    f"a batch of the data has {len(minibatch)} parts and no task labels, which the multi-task model "
                    "needs; allowed: (inputs, targets, ..., task labels), as an experience's dataset gives"
                )
            n = len(minibatch[0])  # the strategy's forward looks for labels that its model does not take
            minibatch = [
                *minibatch,
                *(torch.zeros(n, dtype=torch.long, device="cpu") for _ in range(3 - len(minibatch))),
            ]
        return minibatch, targets

    def forward(self, model: nn.Module, minibatch: Any, task_labels: Tensor | None) -> Tensor:
        """``strategy.forward()`` on a minibatch, or on a part of one."""
        self.strategy.mbatch = minibatch
        outputs = self.strategy.forward()
        if self._first is None and isinstance(outputs, Tensor):
            self._first = minibatch, outputs.detach()
        return logits_of(outputs)

    def require_known_criterion(self, plain: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Compare the strategy's loss with the loss function that the likelihood is read from.

        Args:
            plain: that function, of outputs and targets. Where ``criterion()`` calls it, there is nothing to compare.

        Raises:
            ValueError: their gradients at the outputs are not proportional.
        """
        strategy, kind = self.strategy, type(self.strategy)
        own = getattr(kind, "criterion", SupervisedProblem.criterion)
        known = own is SupervisedProblem.criterion or own.__module__.startswith("avalanche.")
        if self._first is None or (known and plain is strategy._criterion):
            return
        strategy.mbatch, outputs = self._first
        strategy.mb_output = outputs.requires_grad_()
        with random_states(), torch.enable_grad():
            losses = strategy.criterion(), plain(strategy.mb_output, strategy.mb_y)
            own_gradient, known_gradient = (_gradient(loss, outputs).flatten().cpu().double() for loss in losses)
        size = known_gradient @ known_gradient
        rest = own_gradient * size - known_gradient * (known_gradient @ own_gradient)
        if (rest.abs() > 1e-3 * own_gradient.abs().max() * size).any():
            raise ValueError(
                f"the loss of {kind.__name__} with {type(strategy._criterion).__name__} is no multiple of the one "
                "whose likelihood would be taken; name its likelihood: "
                f"likelihood={' or '.join(map(repr, LIKELIHOODS))}"
            )

    @property
    def _task_aware(self) -> bool:
        return hasattr(self.strategy.experience, "task_labels")


def _gradient(loss: Tensor, outputs: Tensor) -> Tensor:
    if not loss.requires_grad:
        return torch.zeros_like(outputs)
    (gradient,) = torch.autograd.grad(loss.sum(), outputs, allow_unused=True)
    return torch.zeros_like(outputs) if gradient is None else gradient
