"""The time of a training step with each plugin over the time of the same step without one."""

from collections.abc import Callable, Iterator, Sequence
from statistics import median

import torch
from avalanche.core import SupervisedPlugin

from study.bench.plugins import NOTES, PLUGINS, StrategyStub, learn, training_step
from study.bench.record import Measurement
from study.bench.workloads import Images, Workload
from study.run.timing import clock_of, interleave, long_turn, over

STEP = "× Naive's step"

FEW = 8
"""Images of each earlier experience: their importances do not change the time of a step."""

PATIENCE = 30.0
"""Seconds for all turns of a method on a model: slow models have fewer rounds."""


def measure_step(
    workload: Workload, method: str, device: torch.device, rounds: int, experiences: Sequence[int]
) -> Iterator[Measurement]:
    """Steps with every library's plugin of a method, in at most ``rounds`` turns with a step of Naive.

    ``experiences`` count from 1; the penalty is over all experiences before.
    """
    clock, model = clock_of(device), workload.model(10, device)
    images = workload.images(workload.batch, 10, device)
    naive = training_step(StrategyStub(model), SupervisedPlugin(), images.inputs, images.targets)
    turns = {("Naive", 0): long_turn(naive, clock)}
    for by in (by for by, plugins in PLUGINS.items() if method in plugins):
        for experience in experiences:
            step = prepared_step(PLUGINS[by][method](), StrategyStub(model), images, experience)
            turns[by, experience] = long_turn(step, clock)
    seconds = interleave(turns, rounds, clock, PATIENCE)
    for (by, experience), found in list(seconds.items())[1:]:
        yield Measurement(
            model=workload.name,
            method=method,
            by=by,
            setting=f"experience {experience}",
            quantity=STEP,
            values=over(found, seconds["Naive", 0]),
            seconds=median(found),
            note=NOTES.get((method, by), ""),
        )


def prepared_step(
    plugin: SupervisedPlugin, strategy: StrategyStub, images: Images, experience: int
) -> Callable[[], None]:
    """A step of an experience, counted from 1, after the experiences before it."""
    learn(plugin, strategy, images.first(FEW), experience - 1)
    return training_step(strategy, plugin, images.inputs, images.targets)
