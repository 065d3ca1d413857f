"""Where the time of an importance pass goes, and what a plugin's step takes beyond Naive's: by kind of operation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from avalanche.core import SupervisedPlugin
from torch.autograd import profiler

from study.bench.passes import ours
from study.bench.plugins import OURS, strategy_stub, training_step
from study.bench.record import Measurement
from study.bench.steps import prepared_step
from study.bench.timing import Turn, clock_of, interleave, repeated, times_a_turn
from study.bench.workloads import Workload

CPU = torch.device("cpu")
"""Where the time of an operation is its own: on a GPU it would be that of its launch."""

OF_A_PASS = "share of a pass's time"
BEYOND_NAIVE = "time beyond Naive's step, as a share of it"

KINDS: Mapping[str, frozenset[str]] = {
    "products, convolutions": frozenset(
        {"mm", "addmm", "bmm", "baddbmm", "mkldnn_convolution", "convolution_backward", "_slow_conv2d_forward"}
    ),
    "activations, norms, pooling, loss": frozenset(
        {"relu", "clamp_min", "clamp_min_", "threshold_backward", "_softmax", "mean"}
        | {"native_batch_norm", "native_batch_norm_backward"}
        | {"max_pool2d_with_indices", "max_pool2d_with_indices_backward"}
        | {"_log_softmax", "_log_softmax_backward_data", "nll_loss_forward", "nll_loss_backward"}
    ),
    "other arithmetic": frozenset(
        {"add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "neg", "sqrt", "pow", "square", "abs", "sum"}
        | {"addcmul", "addcmul_", "dot", "where", "clamp", "clamp_", "cumsum", "eq", "ne"}
    ),
    "copies and patches": frozenset(
        {"copy_", "cat", "fill_", "zero_", "im2col", "constant_pad_nd", "flip", "scatter_"}
    ),
    "the optimizer": frozenset({"_fused_adam_"}),
}
"""Operations by what they do, named as PyTorch names them. Fresh memory counts where it is first written to."""

OTHERS = "other operations, views"
REST = "in between: Python, autograd"

NOTES = {
    "other arithmetic": "fresh memory counts where it is first written to",
    REST: "the time without the profiler, less that of all operations with it",
}

STEPS = 10
"""In a turn at most: a profile of many small operations takes long to read."""

READABLE = 4
"""For the same reason a pass that is taken apart sees one in so many of a workload's samples."""

Seconds = dict[str, float]
"""By kind, in the order of :data:`KINDS`, :data:`OTHERS` and :data:`REST`."""


def measure_pass_profile(workload: Workload, classes: int, rounds: int) -> Iterator[Measurement]:
    """The time of the passes of an exact and an empirical Fisher by kind of operation, in shares of the whole."""
    model = workload.model(classes, CPU)
    samples = max(1, workload.samples // READABLE)
    images = workload.images(samples, classes, CPU)
    passes = {each.computes: each for each in ours() if each.computes in ("exact Fisher", "empirical Fisher")}
    turns = {name: Turn(partial(each.measure, model, *images, samples)) for name, each in passes.items()}
    for name, found in _taken_apart(turns, rounds).items():
        shares = [{kind: value / sum(seconds.values()) for kind, value in seconds.items()} for seconds in found]
        yield from _measurements(workload, f"{name}, {classes} classes", OF_A_PASS, shares)


def measure_step_profile(workload: Workload, rounds: int) -> Iterator[Measurement]:
    """What a step with each of our plugins takes beyond Naive's, by kind of operation, at experience 2."""
    model = workload.model(10, CPU)
    images = workload.images(workload.batch, 10, CPU)
    works = {"Naive": training_step(strategy_stub(model), SupervisedPlugin(), *images)}
    works |= {method: prepared_step(make(), strategy_stub(model), images, 2) for method, make in OURS.items()}
    for work in works.values():
        work()
    times = min(STEPS, times_a_turn(works["Naive"], clock_of(CPU)))
    found = _taken_apart({name: Turn(repeated(work, times), times) for name, work in works.items()}, rounds)
    naive = found.pop("Naive")
    for method, seconds in found.items():
        yield from _measurements(workload, f"{method}, experience 2", BEYOND_NAIVE, beyond(seconds, naive))


def beyond(seconds: Sequence[Seconds], reference: Sequence[Seconds]) -> list[Seconds]:
    """Round by round, by how much each kind's time is above the reference's, as a share of all of the reference's."""
    return [
        {kind: (each[kind] - other[kind]) / sum(other.values()) for kind in each}
        for each, other in zip(seconds, reference, strict=True)
    ]


def seconds_by_kind(work: Callable[[], object]) -> Seconds:
    """What the operations of a work take on the CPU, by kind; without what lies between them."""
    with profiler.profile() as profile:
        work()
    seconds = dict.fromkeys([*KINDS, OTHERS], 0.0)
    for event in profile.key_averages():
        if event.key.startswith("aten::"):
            operation = event.key.removeprefix("aten::")
            kind = next((kind for kind, operations in KINDS.items() if operation in operations), OTHERS)
            seconds[kind] += event.self_cpu_time_total / 1e6
    return seconds


def _taken_apart(turns: Mapping[str, Turn], rounds: int) -> dict[str, list[Seconds]]:
    """The seconds of a unit of each work, one entry a round.

    All are timed in turns, then profiled in turns: the profiler takes time between operations, which must not count as
    what lies between them.
    """
    clock = clock_of(CPU)
    profiles: dict[str, list[Seconds]] = {name: [] for name in turns}

    def profiled(name: str) -> None:
        profiles[name].append(seconds_by_kind(turns[name].work))

    interleave(turns, 1, clock)  # allocates what they need
    whole = interleave(turns, rounds, clock)
    interleave({name: Turn(partial(profiled, name)) for name in turns}, rounds, clock)
    found: dict[str, list[Seconds]] = {name: [] for name in turns}
    for name, turn in turns.items():
        for seconds, profile in zip(whole[name], profiles[name], strict=True):
            parts = {kind: value / turn.amount for kind, value in profile.items()}
            found[name].append({**parts, REST: seconds - sum(parts.values())})
    return found


def _measurements(workload: Workload, setting: str, quantity: str, shares: Sequence[Seconds]) -> Iterator[Measurement]:
    for kind in [*KINDS, OTHERS, REST]:
        yield Measurement(
            part="limit",
            model=workload.name,
            mode=kind,
            setting=setting,
            quantity=quantity,
            values=[each[kind] for each in shares],
            ours=False,
            note=NOTES.get(kind, ""),
        )
