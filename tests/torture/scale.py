"""Many runs that train almost nothing: what the study itself takes for each."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

from tests.study.processes import Command
from tests.torture.record import WHOLE, Measured, Tried, in_one_call

RUNS = 100
"""For each cycle."""

GROWTH, SLOWER = 1.25, 2.0
"""What the driver may hold, and a run may take, in the last tenth of the runs, as a multiple of that in the first."""

CODE = """
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
from torch import nn
from torch.utils.data import TensorDataset


def rows(experience, generator):
    x, y = torch.randn(8, 2, generator=generator), torch.arange(8) % 2 + 2 * experience
    return AvalancheDataset([TensorDataset(x, y)], data_attributes=[DataAttribute(y.tolist(), "targets")])


def few_rows(seed):
    generator = torch.Generator().manual_seed(seed)
    return benchmark_from_datasets(**{part: [rows(k, generator) for k in range(2)] for part in ("train", "test")})


class Network(nn.Linear):
    def __init__(self, n_classes):
        super().__init__(2, n_classes)
"""

PROTOCOL = """
title = "Almost nothing"
scenarios = ["class"]
seeds = 1
benchmark.kind = "./trivial.py:few_rows"
model.kind = "./trivial.py:Network"
methods.naive.kind = "naive"

[training]
iterations = 1
batch_size = 8
optimizer = "sgd"
learning_rate = 0.1
"""

EXECUTORS = {"the local pool": (), "Ray": ("--ray", "local")}


class Sample(NamedTuple):
    """When so many runs had ended, and the driver's memory then, in MiB."""

    when: float
    done: int
    memory: float


def scale(cycles: int, seed: int, folder: Path, executors: Sequence[str] = (*EXECUTORS,)) -> Iterator[Tried | Measured]:
    """A hundred runs for each cycle with each executor, two at a time, without W&B."""
    (folder / "trivial.py").write_text(CODE, encoding="utf-8")
    protocol = folder / "trivial.toml"
    protocol.write_text(PROTOCOL, encoding="utf-8")
    runs = RUNS * cycles
    for number, name in enumerate(executors):
        out = folder / str(number)
        only = ["--seeds", runs, "--jobs", 2, "--wandb", "disabled", "--out", out]
        with Command("run", protocol, *only, *EXECUTORS[name]) as command:
            samples = list(sampled(command, out))
            tried = in_one_call(f"trivial runs in one call, {name}", command, out, runs)
        yield tried
        yield from summarised(samples, runs, name, bounded=cycles >= WHOLE)


def sampled(command: Command, out: Path) -> Iterator[Sample]:
    driver = psutil.Process(command.process.pid)
    while not command.ended:
        with suppress(psutil.Error):  # it has just ended
            memory = driver.memory_info().rss / 2**20
            yield Sample(time.time(), len(list(out.glob("*.json"))), memory)
        time.sleep(0.5)


def summarised(samples: Sequence[Sample], runs: int, name: str, bounded: bool) -> Iterator[Measured]:
    """Time for a run and the driver's memory, in the first tenth of the runs and in the last, which may be bounded."""
    tenth, first = runs // 10, None
    for part, since, until in (("first", 1, tenth), ("last", runs - tenth, runs)):
        inside = [each for each in samples if since <= each.done <= until]
        if not inside or inside[-1].done == inside[0].done:
            continue
        ms = 1000 * (inside[-1].when - inside[0].when) / (inside[-1].done - inside[0].done)
        memory = median(each.memory for each in inside)
        most = (SLOWER * first[0], GROWTH * first[1]) if bounded and first else (None, None)
        first = first or (ms, memory)
        where = f"{part} tenth of {runs}"
        yield Measured(what=f"{name}: time for a run, {where}", value=ms, unit="ms", at_most=most[0])
        yield Measured(what=f"{name}: driver's memory, {where}", value=memory, unit="MiB", at_most=most[1])
    if samples:
        peak = max(each.memory for each in samples)
        yield Measured(what=f"{name}: driver's peak memory, its table included", value=peak, unit="MiB")
