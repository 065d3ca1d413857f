"""Whole runs of the study: how many a minute, and how long one takes over the same in bare PyTorch."""

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from study.bench.record import BenchError, Measurement
from study.bench.timing import Turn, interleave, over
from study.bench.workloads import mlp
from study.protocol.load import load_protocol
from study.protocol.schema import Protocol
from study.protocol.settings import Training
from study.records.run_record import record_of
from study.records.store import RunStore
from study.run.data import Images, load_images
from study.run.methods import build_optimizer
from study.run.run_environment import RunEnvironment
from study.run.specification import Run
from study.run.threads import torch_threads
from study.run.trainer import EVAL_BATCH_SIZE, perform

PROTOCOL = "vandeven2018-split-mnist-task"
OVER_BARE = "a whole run over the same in bare PyTorch"
A_MINUTE = "whole runs a minute, in one process of one thread"
METHODS = ("none", "ewc-2018")
BARE = "none, bare PyTorch"
MODEL = "Split MNIST, MLP 400-400"
EXPERIENCES = 5


def measure_whole_runs(root: Path, rounds: int, iterations: int) -> Iterator[Measurement]:
    """Runs of Split MNIST, task-incremental, in turns with the loop that one would write for it in bare PyTorch.

    A run is timed from the building of the benchmark to the record in its file, with training, evaluation,
    consolidation and a checkpoint after each experience; the images' files have been read before, as they are once a
    process. The loop trains and evaluates as often on as many images, without checkpoints or a record.

    Args:
        root: folder of the data.
        rounds: runs of each method, and of the loop.
        iterations: of each of the five experiences; published are 2000.

    Raises:
        DataError: the data is not there.
        BenchError: a run did not finish.
    """
    protocol = load_protocol(PROTOCOL, [f"training.iterations={iterations}"])
    images = load_images(protocol.benchmark.name, root)
    turns = {method: Turn(partial(_whole_run, protocol, method, root)) for method in METHODS}
    turns[BARE] = Turn(partial(bare_run, *images, protocol.training))
    with torch_threads(1):
        seconds = interleave(turns, rounds, time.perf_counter)
    setting = f"{iterations} iterations an experience"
    for mode, taken in seconds.items():
        yield Measurement(
            part="study",
            model=MODEL,
            mode=mode,
            setting=setting,
            quantity=A_MINUTE,
            values=[60 / each for each in taken],
            better="higher",
            ours=mode != BARE,
            relative=False,
        )
    for mode in METHODS:
        yield Measurement(
            part="study",
            model=MODEL,
            mode=mode,
            setting=setting,
            quantity=OVER_BARE,
            values=over(seconds[mode], seconds[BARE]),
            seconds=seconds[mode],
        )


def _whole_run(protocol: Protocol, method: str, root: Path) -> None:
    strength = None if method == "none" else 1.0
    run = Run.of("bench", protocol, "task", method, 0, settings=protocol.methods[method], strength=strength)
    with tempfile.TemporaryDirectory() as folder:
        record = record_of(run, perform(run, RunEnvironment(root, checkpoints=Path(folder))))
        RunStore(Path(folder)).write(record)
    if not record.finished:
        raise BenchError(f"{run} {record.outcome}: {record.last_line}; expected it to finish")


def bare_run(train: Images, test: Images, training: Training) -> list[list[float]]:
    """Train on five tasks of two digits, with a head for each, and evaluate on all after each.

    Returns:
        The accuracy on every task after each.
    """
    tasks = [[_of_task(images, task) for images in (train, test)] for task in range(EXPERIENCES)]
    trunk, heads = mlp(400)[:-1], nn.ModuleList(nn.Linear(400, 2) for _ in tasks)
    optimizer = build_optimizer(training, nn.ModuleList([trunk, heads]))
    matrix = []
    for (own_data, _), head in zip(tasks, heads, strict=True):
        _train(nn.Sequential(trunk, head), optimizer, *own_data, training.iterations, training.batch_size)
        with torch.no_grad():
            models = [nn.Sequential(trunk, each) for each in heads]
            matrix.append([_accuracy(model, *test_data) for model, (_, test_data) in zip(models, tasks, strict=True)])
    return matrix


def _of_task(images: Images, task: int) -> tuple[Tensor, Tensor]:
    own = images.targets // 2 == task
    return images.pixels[own].flatten(1) / 255, images.targets[own] % 2


def _train(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor, iterations: int, batch: int
) -> None:
    while iterations:
        full = torch.randperm(len(inputs)).split(batch)[: len(inputs) // batch]
        for rows in full[:iterations]:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
        iterations -= len(full[:iterations])


def _accuracy(model: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor) -> float:
    parts = zip(inputs.split(EVAL_BATCH_SIZE), targets.split(EVAL_BATCH_SIZE), strict=True)
    return sum(int((model(x).argmax(1) == y).sum()) for x, y in parts) / len(targets)
