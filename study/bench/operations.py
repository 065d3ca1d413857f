"""What a step's penalty is made of, and what its operations take by themselves."""

from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import NamedTuple

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor, nn

from study.bench.limit import PATH_INTEGRAL, SEPARATE, copy_of
from study.bench.plugins import strategy_stub, training_step
from study.bench.record import Measurement
from study.bench.timing import clock_of, interleave, long_turn, over
from study.bench.workloads import Workload

SHARE = "share of Naive's step"
BARE = "step over Naive's, if it were Naive's and bare operations"

PENALTY, AND_PATH_INTEGRAL = "a penalty", "a penalty and SI's path integral"
DIRECT, DIRECT_AND_PATH_INTEGRAL = f"{PENALTY}, direct", f"{AND_PATH_INTEGRAL}, direct"
"""What a step has beside Naive's, of which :data:`BARE` is measured."""

COPIED = "its bytes copied once"

TENSORS = ("theta", "anchor", "importance", "difference", "gradient", "total", "before", "g", "omega")
"""For each parameter, named as in ``clreg_plugins``; ``total`` is p.grad."""

STRENGTH = 1.0
"""λ, which leaves numbers as they are however often it multiplies them; the operation takes as long with any other."""


class Operation(NamedTuple):
    """One of a step's.

    Attributes:
        when: the callback in which it is done.
        do: it, on the tensors of one parameter.
    """

    when: str
    do: Callable[[SimpleNamespace], object]


Operations = Mapping[str, Operation]

OF_VALUE: Operations = {
    "θ − θ*": Operation("before_backward", lambda p: torch.sub(p.theta, p.anchor, out=p.difference)),
    "Ω · (θ − θ*)": Operation("before_backward", lambda p: torch.mul(p.importance, p.difference, out=p.gradient)),
    "the penalty's value": Operation(
        "before_backward", lambda p: torch.dot(p.gradient.view(-1), p.difference.view(-1))
    ),
}
OF_PENALTY: Operations = {
    **OF_VALUE,
    "λ · Ω (θ − θ*)": Operation("before_backward", lambda p: p.gradient.mul_(STRENGTH)),
    "added to the task's gradient": Operation("after_backward", lambda p: p.total.add_(p.gradient)),
}
OF_DIRECT: Operations = {
    **OF_VALUE,
    "direct: λ · Ω (θ − θ*) added to the task's gradient": Operation(
        "after_backward", lambda p: p.total.addcmul_(p.gradient, p.scale, value=STRENGTH)
    ),
}
OF_PATH_INTEGRAL: Operations = {
    "SI: g without the penalty": Operation(
        "after_backward", lambda p: torch.addcmul(p.total, p.importance, p.difference, value=-1.0, out=p.g)
    ),
    "SI: θ remembered": Operation("before_update", lambda p: p.before.copy_(p.theta)),
    "SI: Δθ": Operation("after_update", lambda p: torch.sub(p.theta, p.before, out=p.before)),
    "SI: ω − g Δθ": Operation("after_update", lambda p: p.omega.addcmul_(p.g, p.before, value=-1.0)),
}
"""What penalty.py, direct.py and si.py do to each parameter in a step, in their order."""


class Bare(SupervisedPlugin):
    """Operations in the places where the plugins do them, on the model's own parameters and gradients.

    All other tensors are random, and there already.
    """

    def __init__(self, operations: Operations, model: nn.Module) -> None:
        super().__init__()
        self.operations = operations
        self.parameters = [(p, _tensors(p)) for p in model.parameters()]
        for p, tensors in self.parameters:
            tensors.theta = p.detach()

    @torch.no_grad()
    def _do(self, when: str) -> None:
        operations = [each for each in self.operations.values() if each.when == when]
        for p, tensors in self.parameters:
            tensors.total = p.grad
            for operation in operations:
                operation.do(tensors)

    def before_backward(self, strategy: object, **kwargs: object) -> None:
        """The penalty's value."""
        self._do("before_backward")

    def after_backward(self, strategy: object, **kwargs: object) -> None:
        """Its gradient, and SI's g."""
        self._do("after_backward")

    def before_update(self, strategy: object, **kwargs: object) -> None:
        """SI's θ."""
        self._do("before_update")

    def after_update(self, strategy: object, **kwargs: object) -> None:
        """SI's Δθ and ω."""
        self._do("after_update")


def measure_operations(workload: Workload, device: torch.device, rounds: int) -> Iterator[Measurement]:
    """What a step would take if it were Naive's and the bare operations of a penalty, over Naive's; and each of them.

    Together they are done in a step of Naive's (:class:`Bare`), parameter by parameter as the plugins go; what a
    plugin's step takes beyond is its own and autograd's overhead, and fresh memory. Each by itself is repeated, with
    what it works on at hand. The bytes of all of them copied, each once, stand beside: a kernel written for the penalty
    could come to that.
    """
    clock = clock_of(device)
    model = workload.model(10, device)
    entries = sum(p.numel() for p in model.parameters())
    images = workload.images(workload.batch, 10, device)

    def step(plugin: SupervisedPlugin) -> Callable[[], None]:
        return training_step(strategy_stub(model), plugin, *images)

    naive = step(SupervisedPlugin())
    single = {**OF_PENALTY, **OF_DIRECT, **OF_PATH_INTEGRAL}
    together = {
        PENALTY: OF_PENALTY,
        DIRECT: OF_DIRECT,
        AND_PATH_INTEGRAL: {**OF_PENALTY, **OF_PATH_INTEGRAL},
        DIRECT_AND_PATH_INTEGRAL: {**OF_DIRECT, **OF_PATH_INTEGRAL},
    }
    copied = {PENALTY: SEPARATE, AND_PATH_INTEGRAL: PATH_INTEGRAL}
    works = {
        "Naive": naive,
        **{name: _alone(operation, model) for name, operation in single.items()},
        **{name: step(Bare(operations, model)) for name, operations in together.items()},
        **{f"{name}, {COPIED}": _after(naive, copy_of(count * entries, device)) for name, count in copied.items()},
    }
    turns = {}
    for name, work in works.items():
        work()
        turns[name] = long_turn(work, clock)
    seconds = interleave(turns, rounds, clock)
    for name in [name for name in works if name != "Naive"]:
        yield Measurement(
            part="limit",
            model=workload.name,
            mode=name,
            setting="experience 2",
            quantity=SHARE if name in single else BARE,
            values=over(seconds[name], seconds["Naive"]),
            ours=False,
        )


def _after(step: Callable[[], None], work: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        step()
        work()

    return both


def _alone(operation: Operation, model: nn.Module) -> Callable[[], None]:
    parameters = [_tensors(p) for p in model.parameters()]

    @torch.no_grad()
    def work() -> None:
        for p in parameters:
            operation.do(p)

    return work


def _tensors(p: Tensor) -> SimpleNamespace:
    return SimpleNamespace(scale=p.new_ones(()), **{name: torch.rand_like(p) for name in TENSORS})
