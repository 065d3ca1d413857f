"""The targets beside what was measured: met, missed, or not measured and why."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from study.bench.pass_times import FASTER, FASTEST_PEER
from study.bench.record import PEERS, Measurement, PartRecord, Performance
from study.bench.targets import TARGETS, Target


@dataclass(frozen=True)
class Judged:
    """A target, what was measured of what it is about, and what was not.

    Attributes:
        target: which.
        measured: all that it bounds.
        missing: a mode, perhaps on a model, and why there is no measurement of it.
        bare: what it is made of, by itself, on the model of the worst, in the target's quantity; None where that was
            not measured.
    """

    target: Target
    measured: tuple[Measurement, ...]
    missing: tuple[tuple[str, str], ...]
    bare: Measurement | None = None

    @property
    def met(self) -> int:
        """How many of the measurements are within the bound."""
        return sum(map(self.target.met, self.measured))

    @property
    def met_throughout(self) -> bool:
        """Whether all that it is about was measured and is within the bound."""
        return bool(self.measured) and not self.missing and self.met == len(self.measured)

    @property
    def worst(self) -> Measurement:
        """Of the measurements, which there must be."""
        return (max if self.target.sense == "≤" else min)(self.measured, key=lambda each: each.median)

    @property
    def reasons(self) -> str:
        """Why something is missing, each reason once."""
        return "; ".join(dict.fromkeys(reason for _, reason in self.missing))


PEER_NAMES = ("BackPACK", "torch.func")
"""Of whom one is the fastest peer."""


def judge(performance: Performance) -> list[Judged]:
    """All targets of a device, in order."""
    found = []
    for target in TARGETS:
        if target.device == performance.device:
            measured = tuple(filter(target.about, performance.measurements))
            judged = Judged(target, measured, tuple(_missing(target, performance, measured)))
            found.append(replace(judged, bare=_bare(judged, performance)) if measured else judged)
    return found


def _bare(judged: Judged, performance: Performance) -> Measurement | None:
    worst = judged.worst
    candidates = (each for each in performance.measurements if each.model == worst.model)
    bare = next((each for each in candidates if (each.quantity, each.mode) == judged.target.bare), None)
    if bare is None or not worst.quantity.startswith(FASTER):
        return bare
    # the other's time over ours, times ours over the bare one's
    return worst.model_copy(update={"values": tuple(worst.median * value for value in bare.values)})


def _missing(target: Target, performance: Performance, measured: tuple[Measurement, ...]) -> Iterator[tuple[str, str]]:
    record = performance.parts.get(target.part)
    there = {(each.mode, each.model if target.models else "") for each in measured}
    for mode in target.modes:
        for model in target.models or ("",):
            if (mode, model) not in there:
                where = f"{mode}, {model}".removesuffix(", ")
                if record is None:
                    yield where, f"this part was not measured: --only {target.part} does"
                else:
                    yield where, _reason(target, mode, model, record)
    if record is not None and not target.models:
        for each in record.skipped:  # of other models or settings, while the mode was measured on some
            if each.mode in target.modes and (each.mode, "") in there:
                yield f"{each.mode}, {each.model}, {each.setting}", each.reason


def _reason(target: Target, mode: str, model: str, record: PartRecord) -> str:
    """What was said when it was left out, or the rival that it is compared with."""
    computes, rival = mode.removesuffix("ours"), target.quantity.removeprefix(FASTER).strip()
    comparison = target.quantity.startswith(FASTER)
    for each in record.skipped:
        elsewhere = model not in ("", each.model) or target.setting not in ("", each.setting)
        by = next((module for module, package in PEERS.items() if package == each.mode), "")  # not installed
        of_rival = by == rival.lower() or each.mode == computes + rival
        of_any = bool(by) or (each.mode.startswith(computes) and each.mode.removeprefix(computes) in PEER_NAMES)
        if not elsewhere and (each.mode == mode or (comparison and (of_any if rival == FASTEST_PEER else of_rival))):
            return f"{each.mode}: {each.reason}" if each.mode != mode else each.reason
    return "a quick measurement leaves it out" if record.circumstances.quick else "nothing of it was recorded"
