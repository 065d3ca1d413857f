"""One run: all that determines it in, its record out."""

import hashlib
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from avalanche.benchmarks import NCScenario
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import JointTraining, Naive
from torch import Tensor, nn
from torch.utils.data import default_collate

from study.benchmarks import build_benchmark
from study.methods import build_plugins
from study.models import build_model
from study.protocol import Joint
from study.records import Run, RunRecord

OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
EVAL_BATCH_SIZE = 1024  # the accuracy does not depend on it


def perform(run: Run) -> RunRecord:
    """Train and evaluate. A run that fails gives a record that says how; only an interrupt is raised."""
    clock = time.perf_counter()
    accuracy, error = None, None
    try:
        accuracy = accuracy_matrix(run)
    except Exception:  # whatever a method or model does wrong ends this run, not the study
        error = traceback.format_exc()
    return RunRecord.of(run, accuracy=accuracy, error=error, seconds=time.perf_counter() - clock)


def accuracy_matrix(run: Run) -> list[list[float]]:
    """The accuracy on every experience after every experience, the same to the last bit for the same run.

    Returns:
        Shape (T, T), in [0, 1], row k after training on experience k; for joint training the one row after
        it.
    """
    with _one_thread(), torch.random.fork_rng(devices=[]):
        benchmark = build_benchmark(run.benchmark, run.scenario, run.evaluated_on, run.validation_fraction)
        torch.manual_seed(derived_seed(run.seed, "initialisation"))
        model = build_model(run.model, run.scenario, benchmark)
        # what a model draws while it trains (dropout) shall not depend on how many numbers its weights took
        torch.manual_seed(derived_seed(run.seed, "training"))
        strategy = _build_strategy(run, model)
        if isinstance(run.method, Joint):
            strategy.train(benchmark.train_stream, eval_streams=[])
            return [_accuracies(strategy, benchmark)]
        matrix = []
        for experience in benchmark.train_stream:
            # A fresh optimizer state: what Adam keeps of a past experience would go on moving the heads of
            # past tasks, to which a penalty gives a gradient, if only of 0, and naive training gives none.
            strategy.train(experience, eval_streams=[], reset_optimizer_state=True)
            matrix.append(_accuracies(strategy, benchmark))
        return matrix


def derived_seed(seed: int, purpose: str) -> int:
    """A seed for one purpose, in [0, 2³²): what one purpose draws says nothing about what another does."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:4], "big")


class ShuffledBatches(SupervisedPlugin, supports_distributed=False):
    """Feeds a strategy from memory, in an order that only the seed decides.

    The data order has a generator of its own, so that methods see the same batches whatever else they draw;
    and collating an experience once instead of sample by sample in every epoch saves a third of the time. For
    data that fits in memory and is not augmented.

    Args:
        seed: of the order.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Put the batches in the place of the strategy's dataloader."""
        dataset = strategy.adapted_dataset
        columns = default_collate([dataset[i] for i in range(len(dataset))])
        strategy.dataloader = _Epochs(columns, strategy.train_mb_size, self._generator)


class _Epochs:
    """Iterates over all rows of some columns, in batches and in a new order each time."""

    def __init__(self, columns: list[Tensor], batch_size: int, generator: torch.Generator) -> None:
        self._columns = columns
        self._batch_size = batch_size
        self._generator = generator

    def __iter__(self) -> Iterator[list[Tensor]]:
        order = torch.randperm(len(self._columns[0]), generator=self._generator)
        for rows in order.split(self._batch_size):
            yield [column[rows] for column in self._columns]


def _build_strategy(run: Run, model: nn.Module) -> Naive | JointTraining:
    settings = run.training
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No loggers specified")  # as intended
        evaluator = EvaluationPlugin(accuracy_metrics(experience=True), loggers=[])
    strategy = JointTraining if isinstance(run.method, Joint) else Naive
    return strategy(
        model=model,
        optimizer=OPTIMIZERS[settings.optimizer](model.parameters(), lr=settings.learning_rate),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=settings.batch_size,
        train_epochs=settings.epochs,
        eval_mb_size=EVAL_BATCH_SIZE,
        plugins=[
            ShuffledBatches(derived_seed(run.seed, "order")),
            *build_plugins(run.method, run.strength, derived_seed(run.seed, "importance")),
        ],
        evaluator=evaluator,
    )


def _accuracies(strategy: Naive | JointTraining, benchmark: NCScenario) -> list[float]:
    """Accuracy on each experience of the test stream, in order."""
    metrics = strategy.eval(benchmark.test_stream)
    by_experience = {
        int(name.rpartition("/Exp")[2]): value
        for name, value in metrics.items()
        if name.startswith("Top1_Acc_Exp/eval_phase/test_stream/")
    }
    return [float(by_experience[i]) for i in range(len(benchmark.test_stream))]


@contextmanager
def _one_thread() -> Iterator[None]:
    """How many threads share a sum decides its last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
