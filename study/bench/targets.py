"""What the measurements are held to."""

from dataclasses import dataclass
from typing import Literal

from study.bench import limit, memory, operations, pass_times, stages, steps, waiting
from study.bench.record import DeviceName, Measurement, Part
from study.bench.workloads import CNN, RESNET

IMAGE_MODELS = (CNN.name, RESNET.name)


@dataclass(frozen=True)
class Target:
    """A bound for the median of every measurement that it is about.

    Attributes:
        what: in words.
        bound: in the measurement's quantity.
        sense: which side of it is allowed.
        device: where it holds.
        part: that measures it.
        quantity: that it bounds.
        modes: each of which has to be measured.
        models: each of which has to be measured; empty for whichever the part is measured on.
        setting: the only one that it is about; empty for all.
        bare: quantity and mode of what it is made of, measured by itself; for a comparison with another library, of
            how many times as long ours takes.
    """

    what: str
    bound: float
    sense: Literal["≤", "≥"]
    device: DeviceName
    part: Part
    quantity: str
    modes: tuple[str, ...]
    models: tuple[str, ...] = ()
    setting: str = ""
    bare: tuple[str, str] | None = None

    def about(self, measurement: Measurement) -> bool:
        """Whether it bounds this measurement."""
        return (
            measurement.quantity == self.quantity
            and measurement.mode in self.modes
            and (not self.models or measurement.model in self.models)
            and self.setting in ("", measurement.setting)
        )

    def met(self, measurement: Measurement) -> bool:
        """Whether the median, as two decimals show it, is on the allowed side."""
        median = round(measurement.median, 2)
        return median <= self.bound if self.sense == "≤" else median >= self.bound

    @property
    def text(self) -> str:
        """The bound as tables show it."""
        return f"{self.sense} {self.bound:.2f}"


def _modes(computes: tuple[str, ...], *kinds: str) -> tuple[str, ...]:
    return tuple(f"{each}, {kind}" for each in computes for kind in kinds)


def _step(bound: float, methods: tuple[str, ...], kind: str) -> Target:
    what = f"a step with {IN_WORDS[methods]}, {HOW[kind]}"
    bare = (operations.BARE, MADE_OF[kind, methods])
    return Target(what, bound, "≤", "cpu", "step", steps.QUANTITY, _modes(methods, kind), bare=bare)


def _pass(
    what: str,
    sense: Literal["≤", "≥"],
    bound: float,
    quantity: str,
    computes: tuple[str, ...],
    models: tuple[str, ...],
    part: Part = "pass",
) -> Target:
    kind = "exact Fisher" if computes == EXACT else "empirical Fisher"  # which every one with one cotangent equals
    bare = None
    if models == IMAGE_MODELS:
        bare = (stages.BARE if quantity == PER_EPOCH else stages.OVER_BARE, kind)
    elif quantity == PER_EPOCH:
        bare = (limit.LEAST_PASS, kind)
    return Target(what, bound, sense, "cpu", part, quantity, _modes(computes, OURS), models, "10 classes", bare)


def _held(what: str, bound: float, device: DeviceName, quantity: str, methods: tuple[str, ...]) -> Target:
    return Target(what, bound, "≤", device, "memory", quantity, _modes(methods, OURS, DIRECT))


OURS, DIRECT = "ours", "ours, direct"
WITHOUT_SI, SI = ("L2", "EWC", "Online EWC", "MAS"), ("SI",)
IN_WORDS = {WITHOUT_SI: "L2, EWC, Online EWC or MAS", SI: "SI"}
HOW = {OURS: "times Naive's", DIRECT: "written into the gradient directly"}
MADE_OF = {
    (OURS, WITHOUT_SI): operations.PENALTY,
    (DIRECT, WITHOUT_SI): operations.DIRECT,
    (OURS, SI): operations.AND_PATH_INTEGRAL,
    (DIRECT, SI): operations.DIRECT_AND_PATH_INTEGRAL,
}
MLP, EXACT, FEW = ("MLP 400-400",), ("exact Fisher",), ("empirical Fisher", "sample Fisher")
MAS = ("MAS, squared norm",)
THAN_PEER = f"{pass_times.FASTER} {pass_times.FASTEST_PEER}"
THAN_LOOP, THAN_BACKPACK = f"{pass_times.FASTER} one at a time", f"{pass_times.FASTER} BackPACK"
PER_EPOCH = pass_times.EPOCHS

TARGETS = (
    _step(1.15, WITHOUT_SI, OURS),
    _step(1.10, WITHOUT_SI, DIRECT),
    _step(1.25, SI, OURS),
    _step(1.20, SI, DIRECT),
    Target(
        "EWC's step at the last experience over that at the second",
        1.02,
        "≤",
        "cpu",
        "step",
        steps.GROWTH,
        _modes(("EWC",), OURS, DIRECT),
    ),
    _pass("exact Fisher of a MLP, 10 classes, in epochs", "≤", 1.0, PER_EPOCH, EXACT, MLP),
    _pass("exact Fisher of a MLP, times as fast as one sample at a time", "≥", 70.0, THAN_LOOP, EXACT, MLP),
    _pass("exact Fisher of a MLP, times as fast as BackPACK's", "≥", 2.0, THAN_BACKPACK, EXACT, MLP),
    _pass("exact Fisher of a MLP, share of a matrix product's rate", "≥", 0.8, limit.FLOPS, EXACT, MLP, "limit"),
    _pass("empirical and sample Fisher, MAS of a MLP, in epochs", "≤", 0.5, PER_EPOCH, FEW + MAS, MLP),
    _pass("empirical and sample Fisher of a MLP, times as fast as BackPACK's", "≥", 1.5, THAN_BACKPACK, FEW, MLP),
    _pass("empirical and sample Fisher of CNN and ResNet, in epochs", "≤", 1.3, PER_EPOCH, FEW, IMAGE_MODELS),
    _pass(
        "empirical and sample Fisher of CNN and ResNet, times as fast as BackPACK's",
        "≥",
        3.0,
        THAN_BACKPACK,
        FEW,
        IMAGE_MODELS,
    ),
    _pass(
        "exact Fisher of CNN and ResNet, times as fast as the fastest peer's", "≥", 1.5, THAN_PEER, EXACT, IMAGE_MODELS
    ),
    *(
        target
        for device in ("cpu", "cuda")
        for target in (
            _held("state held by L2, EWC, Online EWC, MAS, in copies", 2.0, device, memory.STATE, WITHOUT_SI),
            _held("state held by SI, in copies", 4.0, device, memory.STATE, SI),
            _held("scratch held beside it, in copies", 2.0, device, memory.SCRATCH, WITHOUT_SI + SI),
            Target(
                "peak of an exact Fisher's pass over its bound",
                1.0,
                "≤",
                device,
                "memory",
                memory.PEAK,
                _modes(EXACT, OURS),
            ),
        )
    ),
    Target(
        "a step of ResNet-18 with any plugin over Naive's",
        1.05,
        "≤",
        "cuda",
        "step",
        steps.QUANTITY,
        _modes(WITHOUT_SI + SI, OURS, DIRECT),
        ("ResNet-18",),
    ),
    Target(
        "steps that wait for the GPU",
        0.0,
        "≤",
        "cuda",
        "waiting",
        waiting.QUANTITY,
        _modes(WITHOUT_SI + SI, OURS, DIRECT),
    ),
)
"""Those for a CPU were set for 2 cores."""


def target_of(measurement: Measurement, device: DeviceName) -> Target | None:
    """What a measurement is held to, if anything."""
    return next((target for target in TARGETS if target.device == device and target.about(measurement)), None)
