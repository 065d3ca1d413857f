"""Avalanche's metrics in the rows of the study, and without it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.evaluation.metric_results import AlternativeValues, MetricValue
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from PIL import Image
from torch import nn

from study.run.tracking import Tracking, WandbLogger
from tests.study.run.tracking.offline import after, parts


def strategy_with(*loggers: WandbLogger) -> tuple[Naive, Any]:
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(8, 4, generator=generator), torch.arange(8) % 2) for _ in range(2)]
    benchmark = tensors_benchmark(train_tensors=data, test_tensors=data, task_labels=[0, 0])
    model = nn.Linear(4, 2)
    evaluator = EvaluationPlugin(
        accuracy_metrics(minibatch=True, experience=True, stream=True), loss_metrics(stream=True), loggers=[*loggers]
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Naive(model=model, optimizer=optimizer, train_mb_size=4, evaluator=evaluator), benchmark


METRICS = [
    "Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp000",
    "Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp001",
    "Top1_Acc_Stream/eval_phase/test_stream/Task000",
    "Loss_Stream/eval_phase/test_stream/Task000",
]


@pytest.mark.parametrize("study", [True, False], ids=["with the study's rows", "by itself"])
def test_avalanches_metrics_are_in_the_row_of_their_experience(
    tracking: Tracking, open_logger: Callable[..., WandbLogger], study: bool
) -> None:
    logger = open_logger()
    assert isinstance(logger, BaseLogger)
    strategy, benchmark = strategy_with(logger)
    strategy.eval(benchmark.test_stream)  # of the untrained model; it has no row
    metrics = []
    for k, experience in enumerate(benchmark.train_stream):
        strategy.train(experience, eval_streams=[])
        metrics.append(strategy.eval(benchmark.test_stream))
        if study:
            after(logger, k)
    logger.close()
    (part,) = parts(tracking)
    assert part.steps == [0, 1]
    for k, row in enumerate(part.rows):
        assert row["experience"] == k
        assert {name: row[name] for name in METRICS} == pytest.approx({name: metrics[k][name] for name in METRICS})
        assert "Top1_Acc_MB/train_phase/train_stream/Task000" in row
        assert ("average_accuracy" in row) == study


def test_numbers_of_every_type_are_logged_and_pictures_are_not(
    tracking: Tracking, open_logger: Callable[..., WandbLogger]
) -> None:
    values = {
        "int": 1,
        "float": 2.5,
        "numpy": np.float32(3.5),
        "tensor": torch.tensor(4.5),
        "picture": Image.new("L", (2, 2)),
        "alternatives": AlternativeValues(Image.new("L", (2, 2)), torch.zeros(2, 2)),
        "matrix": torch.zeros(2, 2),
        "weights": b"...",
        "by class": {"0": 0.25, "1": 0.75},
    }
    logger = open_logger()
    logger.log_metrics([MetricValue(None, name, value, x_plot=17) for name, value in values.items()])
    after(logger, 0)
    logger.close()
    (part,) = parts(tracking)
    logged = {key: value for key, value in part.rows[0].items() if key.split("/")[0] in values}
    assert logged == {"int": 1, "float": 2.5, "numpy": 3.5, "tensor": 4.5, "by class/0": 0.25, "by class/1": 0.75}
