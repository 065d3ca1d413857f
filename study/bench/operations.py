"""What a step's penalty is made of, and what each of its operations takes by itself."""

import math
from collections.abc import Callable, Iterator

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor

from study.bench.limit import PATH_INTEGRAL, SEPARATE, copy_of
from study.bench.plugins import strategy_stub, training_step
from study.bench.record import Measurement
from study.bench.steps import TURN, repeated
from study.bench.timing import Turn, clock_of, interleave, over, seconds_of
from study.bench.workloads import Workload

LEAST = "step over Naive's at least"
SHARE = "share of Naive's step"

PENALTY, AND_PATH_INTEGRAL = "with a penalty", "with a penalty and SI's path integral"
"""What a step is, of which :data:`LEAST` is measured."""


def measure_operations(workload: Workload, device: torch.device, rounds: int) -> Iterator[Measurement]:
    """The time of every operation that a penalty and SI's path integral are made of, over that of Naive's step.

    Run bare, one after the other on tensors of the model's shapes that are there already, without plugin, autograd or
    names. Their sum is what a step can cost at least as long as it is made of PyTorch's own operations; the same bytes
    copied, each once, is what a kernel of their own could come to.
    """
    clock = clock_of(device)
    model = workload.model(10, device)
    naive = training_step(strategy_stub(model), SupervisedPlugin(), *workload.images(workload.batch, 10, device))
    shapes = [p.shape for p in model.parameters()]
    operations = _penalty_operations(shapes, device) | _path_integral_operations(shapes, device)
    entries = sum(shape.numel() for shape in shapes)
    bytes_once = {
        PENALTY: copy_of(SEPARATE * entries, device),
        AND_PATH_INTEGRAL: copy_of(PATH_INTEGRAL * entries, device),
    }
    works = {"Naive": naive, **operations, **{f"{step}, copied": copy for step, copy in bytes_once.items()}}
    turns = {}
    for name, work in works.items():
        work()
        times = max(1, math.ceil(TURN / max(1e-6, seconds_of(work, clock))))
        turns[name] = Turn(repeated(work, times), times)
    seconds = interleave(turns, rounds, clock)
    shares = {name: over(seconds[name], seconds["Naive"]) for name in turns if name != "Naive"}

    def measurement(mode: str, quantity: str, values: list[float]) -> Measurement:
        return Measurement(
            part="limit",
            model=workload.name,
            mode=mode,
            setting="experience 2",
            quantity=quantity,
            values=values,
            ours=False,
        )

    for name in operations:
        yield measurement(name, SHARE, shares[name])
    of_step = {PENALTY: list(_penalty_operations([], device)), AND_PATH_INTEGRAL: list(operations)}
    for step, names in of_step.items():
        added = [sum(parts) for parts in zip(*(shares[name] for name in names), strict=True)]
        yield measurement(step, LEAST, [1 + each for each in added])
        copied = [1 + each for each in shares[f"{step}, copied"]]
        yield measurement(f"{step}, its bytes copied once", LEAST, copied)


def _penalty_operations(shapes: list[torch.Size], device: torch.device) -> dict[str, Callable[[], None]]:
    theta, anchor, importance, difference, gradient, total = _tensors(shapes, 6, device)
    return {
        "θ − θ*": _each(lambda t, a, d: torch.sub(t, a, out=d), theta, anchor, difference),
        "Ω · (θ − θ*)": _each(lambda o, d, g: torch.mul(o, d, out=g), importance, difference, gradient),
        "λ · Ω (θ − θ*)": _each(lambda g: g.mul_(1.0), gradient),
        "the penalty's value": _each(lambda g, d: torch.dot(g.view(-1), d.view(-1)), gradient, difference),
        "added to the task's gradient": _each(lambda t, g: t.add_(g), total, gradient),
    }


def _path_integral_operations(shapes: list[torch.Size], device: torch.device) -> dict[str, Callable[[], None]]:
    theta, before, importance, difference, gradient, g, omega = _tensors(shapes, 7, device)
    return {
        "SI: g without the penalty": _each(
            lambda p, o, d, out: torch.addcmul(p, o, d, value=-1.0, out=out), gradient, importance, difference, g
        ),
        "SI: θ remembered": _each(lambda b, t: b.copy_(t), before, theta),
        "SI: Δθ": _each(lambda t, b, d: torch.sub(t, b, out=d), theta, before, difference),
        "SI: ω − g Δθ": _each(lambda w, a, d: w.addcmul_(a, d, value=-1.0), omega, g, difference),
    }


def _tensors(shapes: list[torch.Size], copies: int, device: torch.device) -> list[list[Tensor]]:
    return [[torch.rand(shape, device=device) for shape in shapes] for _ in range(copies)]


def _each(operation: Callable[..., object], *groups: list[Tensor]) -> Callable[[], None]:
    def work() -> None:
        for tensors in zip(*groups, strict=True):
            operation(*tensors)

    return work
