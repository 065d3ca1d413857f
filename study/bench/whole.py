"""The study as a whole: runs a minute, and its training over the same loop in bare PyTorch."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from study.batches import columns_of
from study.bench.record import BenchError, Measurement
from study.bench.timing import seconds_of
from study.bench.workloads import mlp
from study.conditions import Conditions
from study.methods import build_optimizer
from study.protocol import load_protocol
from study.records import Run
from study.threads import torch_threads
from study.training import Learner, perform

PROTOCOL = "vandeven2018-split-mnist"
BARE = "the study's training over a bare loop"
A_MINUTE = "whole runs a minute, in one process of one thread"
METHODS = ("none", "ewc-2018")
MODEL = "Split MNIST, MLP 400-400"
BATCH = 128


def measure_whole_runs(root: Path, rounds: int, iterations: int) -> Iterator[Measurement]:
    """Runs of Split MNIST, task-incremental, from the data to the record, evaluation and consolidation included.

    Args:
        root: folder of the data.
        rounds: runs of each method.
        iterations: of each of the five experiences; published are 2000.

    Raises:
        DataError: the data is not there.
        BenchError: a run did not finish.
    """
    protocol = load_protocol(f"{PROTOCOL}-task", [f"training.iterations={iterations}"])
    for method in METHODS:
        rates = []
        for seed in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                strength = None if method == "none" else 1.0
                settings = protocol.methods[method]
                run = Run.of("bench", protocol, "task", method, seed, settings=settings, strength=strength)
                record = perform(run, Conditions(root, checkpoints=Path(folder)))
            if not record.finished:
                raise BenchError(f"{run} {record.outcome}: {record.last_line}")
            rates.append(60 / record.seconds.total)
        yield Measurement(
            part="study",
            model=MODEL,
            mode=method,
            setting=f"{iterations} iterations an experience",
            quantity=A_MINUTE,
            values=rates,
            better="higher",
            relative=False,
        )


def measure_over_bare_loop(root: Path, iterations: int) -> Iterator[Measurement]:
    """The time of the study's training over that of the same loop in bare PyTorch, an entry an experience.

    Both train a MLP 784-400-400-2 with the protocol's optimizer on batches of 128, experience by experience in turns,
    in one thread; the study with all it does meanwhile, reading the data and the checkpoint included, evaluation and
    consolidation not.

    Args:
        root: folder of the data.
        iterations: of each experience.

    Raises:
        DataError: the data is not there.
    """
    protocol = load_protocol(f"{PROTOCOL}-domain", [f"training.iterations={iterations}"])
    with torch_threads(1), tempfile.TemporaryDirectory() as folder:
        run = Run.of("bench", protocol, "domain", "none", seed=0)
        learner = Learner(run, Conditions(root, checkpoints=Path(folder)))
        bare = mlp(400, classes=2)
        optimizer = build_optimizer(run.training, bare)
        ratios = []
        for index, experience in enumerate(learner.benchmark.train_stream):
            inputs, targets, _ = columns_of(experience.dataset, torch.device("cpu"))
            generator = torch.Generator().manual_seed(index)
            loop = _bare_loop(bare, optimizer, inputs.flatten(1), targets, iterations, generator)
            alone = seconds_of(loop, time.perf_counter)
            learner.learn(index)
            ratios.append(learner.state.seconds.training[-1] / alone)
    yield Measurement(
        part="study",
        model=MODEL,
        mode="none",
        setting="an entry an experience",
        quantity=BARE,
        values=ratios,
    )


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
            for rows in order.split(BATCH)[: min(left, len(inputs) // BATCH)]:
                optimizer.zero_grad()
                F.cross_entropy(model(inputs[rows]), targets[rows]).backward()
                optimizer.step()
                left -= 1

    return loop
