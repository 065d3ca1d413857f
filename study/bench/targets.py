"""What the measurements are held to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from study.bench import limit, memory, pass_times, steps, waiting
from study.bench.record import DeviceName, Measurement

IMAGE_MODELS = ("4-layer CNN", "reduced ResNet-18")


@dataclass(frozen=True)
class Target:
    """A bound for the median of every measurement that it is about.

    Attributes:
        what: in words.
        bound: in the measurement's quantity.
        sense: which side of it is allowed.
        device: where it holds.
        about: picks the measurements.
    """

    what: str
    bound: float
    sense: Literal["≤", "≥"]
    device: DeviceName
    about: Callable[[Measurement], bool]

    def met(self, measurement: Measurement) -> bool:
        """Whether the median, as two decimals show it, is on the allowed side."""
        median = round(measurement.median, 2)
        return median <= self.bound if self.sense == "≤" else median >= self.bound

    @property
    def text(self) -> str:
        """The bound as tables show it."""
        return f"{self.sense} {self.bound:.2f}"


def _step(kind: str, si: bool) -> Callable[[Measurement], bool]:
    return lambda m: m.quantity == steps.QUANTITY and m.mode.endswith(f", {kind}") and m.mode.startswith("SI,") == si


def _on(
    quantity: str, computes: tuple[str, ...], models: tuple[str, ...], setting: str = "10 classes"
) -> Callable[[Measurement], bool]:
    modes = {f"{each}, ours" for each in computes}
    return lambda m: m.quantity == quantity and m.mode in modes and m.model in models and m.setting == setting


def _held(quantity: str, si: bool | None) -> Callable[[Measurement], bool]:
    return lambda m: m.quantity == quantity and m.ours and si in (None, m.mode.startswith("SI,"))


MLP, EXACT, FEW = ("MLP 400-400",), ("exact Fisher",), ("empirical Fisher", "sample Fisher")
MAS = ("MAS, squared norm",)
THAN_PEER = f"{pass_times.FASTER} {pass_times.FASTEST_PEER}"
THAN_LOOP, THAN_BACKPACK = f"{pass_times.FASTER} one at a time", f"{pass_times.FASTER} BackPACK"
PER_EPOCH = pass_times.EPOCHS

TARGETS = (
    Target("a step with L2, EWC, Online EWC or MAS over Naive's", 1.15, "≤", "cpu", _step("ours", False)),
    Target("the same, written into the gradient directly", 1.10, "≤", "cpu", _step("ours, direct", False)),
    Target("a step with SI over Naive's", 1.25, "≤", "cpu", _step("ours", True)),
    Target("the same, written into the gradient directly", 1.20, "≤", "cpu", _step("ours, direct", True)),
    Target(
        "EWC's step at the last experience over that at the second",
        1.02,
        "≤",
        "cpu",
        lambda m: m.quantity == steps.GROWTH and m.mode.startswith("EWC, ours"),
    ),
    Target("exact Fisher of a MLP, 10 classes, in epochs", 1.0, "≤", "cpu", _on(PER_EPOCH, EXACT, MLP)),
    Target("exact Fisher of a MLP over one sample at a time", 70.0, "≥", "cpu", _on(THAN_LOOP, EXACT, MLP)),
    Target("exact Fisher of a MLP over BackPACK's", 2.0, "≥", "cpu", _on(THAN_BACKPACK, EXACT, MLP)),
    Target("exact Fisher of a MLP, share of a matrix product's rate", 0.8, "≥", "cpu", _on(limit.FLOPS, EXACT, MLP)),
    Target("empirical and sample Fisher, MAS of a MLP, in epochs", 0.5, "≤", "cpu", _on(PER_EPOCH, FEW + MAS, MLP)),
    Target("empirical and sample Fisher of a MLP over BackPACK's", 1.5, "≥", "cpu", _on(THAN_BACKPACK, FEW, MLP)),
    Target(
        "empirical and sample Fisher of CNN and ResNet, in epochs", 1.3, "≤", "cpu", _on(PER_EPOCH, FEW, IMAGE_MODELS)
    ),
    Target(
        "empirical and sample Fisher of CNN and ResNet over BackPACK's",
        3.0,
        "≥",
        "cpu",
        _on(THAN_BACKPACK, FEW, IMAGE_MODELS),
    ),
    Target(
        "exact Fisher of CNN and ResNet, 10 classes, over the fastest peer's",
        1.5,
        "≥",
        "cpu",
        _on(THAN_PEER, EXACT, IMAGE_MODELS),
    ),
    *(
        target
        for device in ("cpu", "cuda")
        for target in (
            Target("state held by L2, EWC, Online EWC, MAS, in copies", 2.0, "≤", device, _held(memory.STATE, False)),
            Target("state held by SI, in copies", 4.0, "≤", device, _held(memory.STATE, True)),
            Target("scratch held beside it, in copies", 2.0, "≤", device, _held(memory.SCRATCH, None)),
            Target("peak of an exact Fisher's pass over its bound", 1.0, "≤", device, _held(memory.PEAK, None)),
        )
    ),
    Target(
        "a step of ResNet-18 with any plugin over Naive's",
        1.05,
        "≤",
        "cuda",
        lambda m: m.quantity == steps.QUANTITY and m.ours and m.model == "ResNet-18",
    ),
    Target("steps that wait for the GPU", 0.0, "≤", "cuda", _held(waiting.QUANTITY, None)),
)
"""Those for a CPU were set for 2 cores."""


def target_of(measurement: Measurement, device: DeviceName) -> Target | None:
    """What a measurement is held to, if anything."""
    return next((target for target in TARGETS if target.device == device and target.about(measurement)), None)
