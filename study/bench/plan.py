"""What is measured on which device."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from study.bench.memory import measure_held, measure_peak
from study.bench.pass_cost import measure_passes
from study.bench.plugins import OURS
from study.bench.record import DeviceName, Measurement, Part
from study.bench.step import measure_step
from study.bench.workloads import (
    CNN,
    MLP_400,
    MLP_1000,
    REDUCED_RESNET,
    RESNET_18,
    RESNET_50,
    SMALL_VIT,
    VIT_B_16,
    Workload,
)

PARTS: tuple[Part, ...] = ("step", "memory", "pass")


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often.

    Attributes:
        steps: models of training steps.
        passes: models and classes of importance passes.
        held: the model whose plugins' memory is measured.
        peaks: models of passes whose peak is measured.
        bound: their ``max_bytes``.
        experiences: at which steps, and memory held, are measured.
        step_rounds, pass_rounds: turns of each.
        patience: seconds for a turn of a pass.
        seconds: after which nothing more is begun.
    """

    steps: tuple[Workload, ...]
    passes: tuple[tuple[Workload, int], ...]
    held: Workload
    peaks: tuple[Workload, ...]
    bound: int
    experiences: tuple[int, ...] = (2, 10, 50)
    step_rounds: int = 15
    pass_rounds: int = 5
    patience: float = 1.0
    seconds: float = float("inf")


PLANS: dict[DeviceName, Plan] = {
    "cpu": Plan(
        steps=(MLP_400, MLP_1000, REDUCED_RESNET, SMALL_VIT),
        passes=((MLP_400, 10), (CNN, 10), (REDUCED_RESNET, 10), (SMALL_VIT, 10), (MLP_400, 100), (REDUCED_RESNET, 100)),
        held=MLP_400,
        peaks=(MLP_400, CNN, REDUCED_RESNET),
        bound=2**26,
    ),
    # ends within ten minutes: the last unit that begins takes less than two
    "cuda": Plan(
        steps=(RESNET_18, REDUCED_RESNET),
        passes=((RESNET_18, 10), (RESNET_50, 10), (VIT_B_16, 10), (REDUCED_RESNET, 10), (MLP_400, 10)),
        held=REDUCED_RESNET,
        peaks=(RESNET_18, RESNET_50, VIT_B_16),
        bound=2**30,
        step_rounds=7,
        pass_rounds=3,
        patience=0.3,
        seconds=8 * 60,
    ),
}


def units(part: Part, plan: Plan, device: torch.device) -> Iterator[tuple[str, Callable[[], Iterator[Measurement]]]]:
    """What is measured in one go, in order: the name, and the function that measures it."""
    if part == "step":
        for model in plan.steps:
            for method in OURS:
                measure = partial(measure_step, model, method, device, plan.step_rounds, plan.experiences)
                yield f"{method}, {model.name}", measure
    if part == "memory":
        for method in OURS:
            yield f"{method}, {plan.held.name}", partial(measure_held, plan.held, method, device, plan.experiences)
        for model in plan.peaks:
            yield f"peak, {model.name}", partial(measure_peak, model, device, plan.bound, min(1024, model.samples))
    if part == "pass":
        for model, classes in plan.passes:
            measure = partial(measure_passes, model, classes, device, plan.pass_rounds, plan.patience)
            yield f"passes, {model.name}, {classes} classes", measure
