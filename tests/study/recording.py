"""A strategy with a small network on small data, and a record of every mini-batch that it was given."""

from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import Tensor, nn

from study.protocol.settings import Model, Scenario
from study.run.models import build_model

Batch = tuple[Tensor, Tensor, Tensor]  # inputs, targets, task labels


class Recorder(SupervisedPlugin, supports_distributed=False):
    """Keeps each experience's mini-batches, in training and in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.training: list[list[Batch]] = []
        self.evaluation: list[list[Batch]] = []

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.training.append([])

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.training[-1].append(tuple(column.clone() for column in strategy.mbatch))

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.evaluation.append([])

    def before_eval_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.evaluation[-1].append(tuple(column.clone() for column in strategy.mbatch))


def learner(
    benchmark: Any,
    scenario: Scenario,
    plugins: list[Any],
    *,
    model: nn.Module | None = None,
    epochs: int = 1,
    batch_size: int = 8,
    kind: Any = Naive,
) -> Any:
    """A strategy with Adam, and by default an MLP of 16 hidden units, initialised the same each time."""
    torch.manual_seed(0)
    model = model or build_model(Model(name="mlp", hidden=[16]), scenario, benchmark)
    return kind(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch_size,
        train_epochs=epochs,
        eval_mb_size=10,
        plugins=plugins,
        evaluator=EvaluationPlugin(),
    )


def train_on(strategy: Any, experiences: Any) -> None:
    for experience in experiences:
        strategy.train(experience, eval_streams=[])


def same(first: list[list[Batch]], second: list[list[Batch]]) -> bool:
    """Whether the mini-batches of all experiences are the same to the last bit and of the same types."""
    return [len(batches) for batches in first] == [len(batches) for batches in second] and all(
        a.dtype == b.dtype and torch.equal(a, b)
        for batches, others in zip(first, second, strict=True)
        for batch, other in zip(batches, others, strict=True)
        for a, b in zip(batch, other, strict=True)
    )
