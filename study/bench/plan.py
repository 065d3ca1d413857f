"""Which measurements belong to a part, on a device, in full or quickly."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from study.bench.limit import measure_bandwidth, measure_flops
from study.bench.memory import measure_held, measure_peaks
from study.bench.pass_times import measure_passes
from study.bench.record import Agreement, DeviceName, Measurement, Part, Skipped
from study.bench.steps import measure_steps
from study.bench.waiting import measure_waiting
from study.bench.whole import MODEL, measure_over_bare_loop, measure_whole_runs
from study.bench.workloads import CNN, LARGE, MLP_400, MLP_1000, RESNET, VIT, Workload
from study.data import DataError

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
        patience: seconds that a turn of another's pass may take.
        samples: in a pass, at most; by default the workload's.
        held_after: experiences after which memory is measured.
        bounds: ``max_bytes`` of passes whose peak is measured.
        peak_samples: in their one batch.
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
    patience: float = 2.0
    samples: int | None = None
    held_after: tuple[int, ...] = (1, 10, 50)
    bounds: tuple[int, ...] = (2**26, 2**28)
    peak_samples: int = 512
    runs: int = 3
    iterations: int = 2000


FULL = Scale((MLP_400, MLP_1000, RESNET, VIT), (MLP_400, CNN, RESNET, VIT), (MLP_400, MLP_1000, CNN))
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


def scale_for(device: DeviceName, quick: bool) -> Scale:
    """How much is measured by default."""
    if device == "cuda":
        return LARGE_QUICK if quick else LARGE_TOO
    return QUICK if quick else FULL


def measure(part: Part, scale: Scale, device: torch.device, data_root: Path) -> Iterator[Found]:
    """Everything of one part, as it is found."""
    if part == "step":
        for workload in scale.step_models:
            yield from measure_steps(workload, device, scale.step_rounds, scale.experiences)
            _forget(device)
    elif part == "pass":
        for workload in scale.pass_models:
            for classes in scale.classes:
                samples = min(workload.samples, scale.samples or workload.samples)
                rounds = scale.pass_rounds if classes <= 10 else min(3, scale.pass_rounds)  # these take long
                yield from measure_passes(workload, classes, device, rounds, samples, scale.patience)
                _forget(device)
    elif part == "memory":
        yield from measure_held(MLP_400, device, scale.held_after)
        for workload in scale.pass_models[:3]:
            yield from measure_peaks(workload, 10, device, scale.bounds, scale.peak_samples, scale.pass_rounds)
    elif part == "limit":
        for workload in scale.limit_models:
            samples = min(workload.samples, scale.samples or workload.samples)
            yield from measure_flops(workload, 10, device, scale.pass_rounds, samples)
        for workload in scale.limit_models[:2]:
            yield from measure_bandwidth(workload, device, scale.step_rounds)
    elif part == "waiting":
        for workload in (MLP_400, RESNET):
            yield from measure_waiting(workload, device)
    else:
        try:
            yield from measure_over_bare_loop(data_root, scale.iterations)
            yield from measure_whole_runs(data_root, scale.runs, scale.iterations)
        except DataError as error:
            yield Skipped(part="study", model=MODEL, mode="all", setting="", reason=str(error))


def _forget(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
