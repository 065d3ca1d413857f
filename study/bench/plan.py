"""Which measurements belong to a part, on a device, in full or quickly."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from study.bench.limit import measure_bandwidth, measure_flops
from study.bench.memory import measure_held, measure_peaks
from study.bench.operations import measure_operations
from study.bench.pass_times import MANY, measure_passes
from study.bench.plugins import OURS
from study.bench.profiling import measure_pass_profile, measure_step_profile
from study.bench.record import Agreement, DeviceName, Measurement, Part, Skipped
from study.bench.stages import measure_stages
from study.bench.steps import measure_steps
from study.bench.targets import IMAGE_MODELS
from study.bench.waiting import measure_waiting
from study.bench.whole import MODEL, measure_whole_runs
from study.bench.workloads import CNN, LARGE, MLP_400, MLP_1000, RESNET, VIT, Workload
from study.run.data import DataError

Found = Measurement | Skipped | Agreement

PARTS: dict[DeviceName, tuple[Part, ...]] = {
    "cpu": ("step", "pass", "memory", "limit", "study"),
    "cuda": ("step", "pass", "memory", "limit", "waiting"),
}


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        step_models, pass_models, limit_models: what on.
        experiences: at which steps are measured.
        step_rounds, pass_rounds: turns of every mode.
        classes: of the models in passes.
        patience: seconds that a turn of another's pass may take, of at most 10 classes.
        held_after: experiences after which memory is measured.
        bounds: ``max_bytes`` of passes whose peak is measured.
        peak_samples: in their one batch.
        peak_rounds: passes whose peak is measured, a bound.
        runs: whole runs of the study, of each method.
        iterations: of each experience of such a run.
    """

    step_models: tuple[Workload, ...]
    pass_models: tuple[Workload, ...]
    limit_models: tuple[Workload, ...]
    experiences: tuple[int, ...] = (2, 10, 50)
    step_rounds: int = 15
    pass_rounds: int = 5
    classes: tuple[int, ...] = (10, 100)
    patience: float = 1.0
    held_after: tuple[int, ...] = (1, 10, 50)
    bounds: tuple[int, ...] = (2**26, 2**28)
    peak_samples: int = 1024
    peak_rounds: int = 3
    runs: int = 3
    iterations: int = 2000


FULL = Scale((MLP_400, MLP_1000, RESNET, VIT), (MLP_400, CNN, RESNET, VIT), (MLP_400, MLP_1000, CNN, RESNET))
QUICK = Scale(
    (MLP_400,),
    (MLP_400, CNN),
    (MLP_400,),
    experiences=(2, 50),
    step_rounds=7,
    pass_rounds=3,
    classes=(10,),
    patience=0.3,
    held_after=(1, 10),
    bounds=(2**26,),
    runs=1,
    iterations=300,
)
LARGE_TOO = Scale(
    (MLP_1000, RESNET, *LARGE),
    (MLP_400, CNN, RESNET, VIT, *LARGE),
    (MLP_400, MLP_1000, CNN),
    bounds=(2**28, 2**30),
    peak_samples=4096,
)
LARGE_QUICK = Scale(
    (RESNET, LARGE[0]),
    (MLP_400, RESNET),
    (MLP_400,),
    experiences=(2, 10),
    step_rounds=7,
    pass_rounds=3,
    classes=(10,),
    patience=0.3,
    held_after=(1, 10),
    bounds=(2**28,),
    peak_samples=4096,
)


@dataclass(frozen=True)
class Unit:
    """What is measured in one go: an interrupt loses no more.

    Attributes:
        name: within its part.
        measure: measures it.
    """

    name: str
    measure: Callable[[], Iterator[Found]]


def scale_for(device: DeviceName, quick: bool) -> Scale:
    """How much is measured by default."""
    if device == "cuda":
        return LARGE_QUICK if quick else LARGE_TOO
    return QUICK if quick else FULL


def units(part: Part, scale: Scale, device: torch.device, data_root: Path) -> list[Unit]:
    """What a part consists of, in order."""
    if part == "step":
        return [
            Unit(
                f"{workload.name}, {method}",
                partial(measure_steps, workload, device, scale.step_rounds, scale.experiences, [method]),
            )
            for workload in scale.step_models
            for method in OURS
        ]
    if part == "pass":
        return [
            Unit(f"{workload.name}, {classes} classes", partial(_passes, workload, classes, scale, device))
            for workload in scale.pass_models
            for classes in scale.classes
        ]
    if part == "memory":
        peaks = (10, device, scale.bounds, scale.peak_samples, scale.peak_rounds)
        return [
            Unit("held", partial(measure_held, MLP_400, device, scale.held_after)),
            *(Unit(f"peak, {each.name}", partial(measure_peaks, each, *peaks)) for each in scale.pass_models[:3]),
        ]
    if part == "limit":
        return [
            *(
                Unit(
                    f"products, {each.name}",
                    partial(measure_flops, each, 10, device, scale.pass_rounds, each.samples),
                )
                for each in scale.limit_models
            ),
            *(
                Unit(f"bytes, {each.name}", partial(measure_bandwidth, each, device, scale.step_rounds))
                for each in scale.limit_models[:2]
            ),
            *(
                Unit(f"operations, {each.name}", partial(measure_operations, each, device, scale.step_rounds))
                for each in scale.limit_models[:2]
            ),
            *(_taken_apart(scale) if device.type == "cpu" else ()),
        ]
    if part == "waiting":
        return [Unit(each.name, partial(measure_waiting, each, device)) for each in (MLP_400, RESNET)]
    return [Unit(MODEL, partial(_study, data_root, scale))]


def _taken_apart(scale: Scale) -> Iterator[Unit]:
    for each in scale.limit_models:
        if each.name in IMAGE_MODELS:
            samples = each.samples // 2  # as stable, in half the time
            stages = partial(measure_stages, each, 10, scale.pass_rounds, samples)
            yield Unit(f"stages, {each.name}", stages)
    rounds = min(3, scale.pass_rounds)
    for each in scale.limit_models:
        yield Unit(f"profile, {each.name}", partial(measure_pass_profile, each, 10, rounds))
    for each in scale.limit_models[:2]:
        yield Unit(f"profile of a step, {each.name}", partial(measure_step_profile, each, scale.step_rounds))


def _passes(workload: Workload, classes: int, scale: Scale, device: torch.device) -> Iterator[Found]:
    many = classes > MANY  # these take long, and no target is about them
    rounds = min(3, scale.pass_rounds) if many else scale.pass_rounds
    patience = scale.patience / 2 if many else scale.patience
    yield from measure_passes(workload, classes, device, rounds, workload.samples, patience)
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _study(data_root: Path, scale: Scale) -> Iterator[Found]:
    try:
        yield from measure_whole_runs(data_root, scale.runs, scale.iterations)
    except DataError as error:
        yield Skipped(part="study", model=MODEL, mode="all", setting="", reason=str(error))
