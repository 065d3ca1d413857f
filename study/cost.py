"""What the plugins cost: a training step over the step without penalty, an importance pass in training epochs; and what
the study costs over a bare loop.

All modes take turns within one process, and only ratios are reported: the machine's speed drifts, its ratios hold.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from clreg_plugins import (
    EWCPlugin,
    L2Plugin,
    MASPlugin,
    OnlineEWCPlugin,
    RegularizationPlugin,
    SIPlugin,
    fisher_diagonal,
    mas_importance,
)
from study.batches import columns_of
from study.conditions import Conditions
from study.protocol import load_protocol
from study.records import Run
from study.training import Learner

PLUGINS: dict[str, Callable[[], RegularizationPlugin]] = {
    "L2": lambda: L2Plugin(1.0),
    "EWC": lambda: EWCPlugin(1.0, fisher="empirical"),
    "Online EWC": lambda: OnlineEWCPlugin(1.0, fisher="empirical"),
    "MAS": lambda: MASPlugin(1.0),
    "SI": lambda: SIPlugin(1.0),
}

PASSES: dict[str, Callable[[nn.Module, DataLoader], object]] = {
    "Fisher, exact": lambda model, data: fisher_diagonal(model, data, variant="exact"),
    "Fisher, sample": lambda model, data: fisher_diagonal(model, data, variant="sample"),
    "Fisher, empirical": lambda model, data: fisher_diagonal(model, data, variant="empirical"),
    "MAS": mas_importance,
}

BATCH_SIZE = 128
PASS_BATCH_SIZE = 512


class _InMemory(DataLoader):
    """Batches that are slices of tensors, so that reading data is no part of what is measured."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, targets = self.dataset.tensors
        for start in range(0, len(inputs), PASS_BATCH_SIZE):
            yield inputs[start : start + PASS_BATCH_SIZE], targets[start : start + PASS_BATCH_SIZE]


def step_ratios(hidden: int, rounds: int) -> dict[str, float]:
    """The time of a training step with each plugin over that without, at experience 2.

    An MLP 784-hidden-hidden-10 with Adam and batches of 128 random images, the plugins' callbacks called as a
    strategy calls them, without the rest of Avalanche.

    Args:
        hidden: units in each hidden layer.
        rounds: times that every mode has its turn of five steps.

    Returns:
        The median over rounds, by plugin.
    """
    inputs, targets = _images(BATCH_SIZE)
    steps = {"none": _step(hidden, None, inputs, targets)}
    steps |= {name: _step(hidden, make(), inputs, targets) for name, make in PLUGINS.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(_seconds(lambda step=step: [step() for _ in range(5)]))
    return {name: median(a / b for a, b in zip(times[name], times["none"], strict=True)) for name in PLUGINS}


def pass_ratios(rounds: int, samples: int = 12_000) -> dict[str, float]:
    """The time of an importance pass over that of a training epoch on the same samples; MLP 784-400-400-10.

    Returns:
        The median over rounds, by kind of pass.
    """
    inputs, targets = _images(samples)
    data = _InMemory(TensorDataset(inputs, targets))
    model = _mlp(400)
    optimizer = torch.optim.Adam(model.parameters())

    def epoch() -> None:
        for start in range(0, samples, BATCH_SIZE):
            optimizer.zero_grad()
            rows = slice(start, start + BATCH_SIZE)
            F.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()

    times: dict[str, list[float]] = {"epoch": [], **{name: [] for name in PASSES}}
    for _ in range(rounds):
        times["epoch"].append(_seconds(epoch))
        for name, measure in PASSES.items():
            times[name].append(_seconds(lambda measure=measure: measure(model, data)))
    return {name: median(a / b for a, b in zip(times[name], times["epoch"], strict=True)) for name in PASSES}


def study_ratios(root: Path, iterations: int = 2000) -> list[float]:
    """The time of the study's training over that of the same loop in bare PyTorch, on Split MNIST.

    Both train a MLP 784-400-400-2 with Adam on batches of 128, experience by experience in turns, in one thread; the
    study with all it does meanwhile, reading the data and the checkpoint included, evaluation and consolidation not.

    Args:
        root: folder of the data.
        iterations: of each experience.

    Returns:
        A ratio an experience, in their order.

    Raises:
        DataError: the data is not there.
    """
    overrides = [f"training.iterations={iterations}"]
    protocol = load_protocol("vandeven2018-split-mnist-domain", overrides)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = Run.of("cost", protocol, "domain", "none", seed=0)
            learner = Learner(run, Conditions(root, checkpoints=Path(folder)))
            bare = _mlp(400, classes=2)
            optimizer = torch.optim.Adam(bare.parameters(), lr=run.training.learning_rate)
            ratios = []
            for index, experience in enumerate(learner.benchmark.train_stream):
                inputs, targets, _ = columns_of(experience.dataset, torch.device("cpu"))
                generator = torch.Generator().manual_seed(index)
                loop = _bare_loop(bare, optimizer, inputs.flatten(1), targets, iterations, generator)
                alone = _seconds(loop)
                learner.learn(index)
                ratios.append(learner.state.seconds.training[-1] / alone)
            return ratios
    finally:
        torch.set_num_threads(threads)


def _bare_loop(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    iterations: int,
    generator: torch.Generator,
) -> Callable[[], None]:
    def loop() -> None:
        left = iterations
        while left:
            order = torch.randperm(len(inputs), generator=generator)
            for rows in order.split(BATCH_SIZE)[: min(left, len(inputs) // BATCH_SIZE)]:
                optimizer.zero_grad()
                F.cross_entropy(model(inputs[rows]), targets[rows]).backward()
                optimizer.step()
                left -= 1

    return loop


def strategy_stub(hidden: int, device: str = "cpu") -> tuple[SimpleNamespace, torch.optim.Optimizer]:
    """What a plugin asks of a strategy in a step, without the rest of Avalanche; and an Adam for its MLP."""
    model = _mlp(hidden).to(device)
    strategy = SimpleNamespace(model=model, experience=None, _criterion=nn.CrossEntropyLoss(), train_mb_size=BATCH_SIZE)
    return strategy, torch.optim.Adam(model.parameters())


def _step(hidden: int, plugin: RegularizationPlugin | None, inputs: Tensor, targets: Tensor) -> Callable[[], None]:
    strategy, optimizer = strategy_stub(hidden)
    if plugin is not None:
        plugin.consolidate(strategy, TensorDataset(inputs, targets))
        plugin.before_training_epoch(strategy)

    def call(event: str) -> None:
        if plugin is not None:
            getattr(plugin, event)(strategy)

    def step() -> None:
        optimizer.zero_grad()
        strategy.loss = F.cross_entropy(strategy.model(inputs), targets)
        call("before_backward")
        strategy.loss.backward()
        call("after_backward")
        call("before_update")
        optimizer.step()
        call("after_update")

    step()
    return step


def _mlp(hidden: int, classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes)]
    return nn.Sequential(*layers)


def _images(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 784, generator=generator), torch.randint(0, 10, (n,), generator=generator)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
