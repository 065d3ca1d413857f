"""An importance pass in training epochs over the same data."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from study.bench import passes
from study.bench.other_libraries import other_libraries
from study.bench.passes import LOOP, OURS, Moments, Pass
from study.bench.record import Agreement, Measurement, Skipped
from study.bench.same_numbers import agreement, double_precision
from study.bench.timing import Clock, Turn, clock_of, interleave, least_seconds, over, seconds_of
from study.bench.workloads import Workload, training_epoch

EPOCHS = "training epochs"
FASTER = "times as fast as"
FASTEST_PEER = "the fastest peer"
SCALED = "scaled from"
MANY = 10
"""Classes from which on what costs as much for each class is measured on less."""

COMPARED, COMPARED_OF_MANY = 32, 8
"""Samples that passes must agree on before they are timed, of at most and of more than ``MANY`` classes."""

FEWEST, FEWEST_OF_MANY = 64, 8
"""Samples that a slow pass of others is timed on at least."""

FEWEST_OF_LOOP = 4
"""The same for one sample at a time, whose time is that of a sample, times how many there are."""

FEWEST_OURS, FEWEST_OURS_OF_MANY = 256, 16
"""The same for ours: many pieces, or some."""

OUR_PATIENCE = 5
"""Times as long a turn may ours take as others: targets are about it."""

AVALANCHE = "Avalanche"

NO_LIBRARIES = (OURS, LOOP, AVALANCHE)
"""Those that are neither rivals nor choose how many samples they take at a time."""

CLEARLY = 1.25
"""Times as long as with fewer samples at a time, from which on more are not tried."""

LEFT_OUT = 4
"""Times as many samples as a pass looks at make it worth its own measurement."""


@dataclass(frozen=True)
class _Ready:
    """A pass that is about to be timed."""

    done: Pass
    turn: Turn
    note: str


def measure_passes(
    workload: Workload, classes: int, device: torch.device, rounds: int, samples: int, patience: float
) -> Iterator[Measurement | Skipped | Agreement]:
    """Every pass that works on the model, with its time in training epochs; none whose numbers are found to be wrong.

    Args:
        workload: the model.
        classes: of its outputs.
        device: where.
        rounds: turns of every pass.
        samples: in the pass, and in the epoch.
        patience: seconds that a turn may take, five times as many for ours. A slower pass is timed on fewer samples,
            and its time scaled.
    """
    candidates = _Candidates(workload, classes, device, samples, patience)
    found, missing = other_libraries()
    for name, reason in missing.items():
        yield candidates.skipped(name, reason)
    ready = []
    # references first: one at a time where there is such a loop, and ours for what only Avalanche computes, too
    for each in [*passes.one_at_a_time(), *passes.ours(), *found, *passes.avalanche()]:
        if each.only is not None and samples < LEFT_OUT * each.only:
            yield candidates.skipped(each.name, f"{samples} samples are too few to leave all but {each.only} out")
            continue
        try:
            compared = candidates.compared(each)
            prepared = candidates.prepared(each) if compared is None or compared.holds else None
        except Exception as error:  # whatever a peer cannot do with this model
            yield candidates.skipped(each.name, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
            continue
        if compared is not None:
            yield compared
        if prepared is not None:
            ready.append(prepared)
        else:
            reason = f"its numbers are not those of {compared.reference}: {compared.difference:.2g} off"
            yield candidates.skipped(each.name, reason)
    yield from candidates.times(ready, rounds)


class _Candidates:
    """The passes on one model: first compared, then prepared, then timed."""

    def __init__(self, workload: Workload, classes: int, device: torch.device, samples: int, patience: float) -> None:
        self.workload, self.classes, self.setting = workload, classes, f"{classes} classes"
        self.samples, self.patience, self.clock = samples, patience, clock_of(device)
        self.model = workload.model(classes, device)
        # in double precision, where rounding decides no maximum of a pooling one way or the other
        self.exact_model = workload.model(classes, device).double()
        self.inputs, self.targets = workload.images(samples, classes, device)
        epoch = training_epoch(workload.model(classes, device), self.inputs, self.targets, workload.batch)
        self.epoch = Turn(epoch)
        self.references: dict[str, tuple[str, Moments]] = {}

    def skipped(self, mode: str, reason: str) -> Skipped:
        """What to record of a pass that is not timed."""
        return Skipped(part="pass", model=self.workload.name, mode=mode, setting=self.setting, reason=reason)

    def compared(self, each: Pass) -> Agreement | None:
        """With what it should give; None where nothing else gives that, and for the first that does."""
        n = COMPARED if self.classes <= MANY else COMPARED_OF_MANY
        with double_precision():
            result = each.measure(self.exact_model, self.inputs[:n].double(), self.targets[:n], self._sizes(each)[0])
        found = agreement(each, result, self.references, self.workload.name, self.setting)
        if each.batch_statistics and _normalises_batches(self.model):
            return None
        if found is None and not each.random:
            self.references[each.computes] = (each.name, result)
        return found

    def prepared(self, each: Pass) -> _Ready:
        """For its turns: on as many samples as it can take within its patience."""
        at_a_time = self._fastest(each)

        def work(n: int) -> None:
            each.measure(self.model, self.inputs[:n], self.targets[:n], at_a_time)

        if each.only is not None:
            return _Ready(each, Turn(partial(work, self.samples)), each.note)
        patience = self.patience * (OUR_PATIENCE if each.by == OURS else 1)
        n = affordable(work, self.samples, _fewest(each, self.classes), patience, self.clock)
        size = f"{at_a_time} samples at a time" if len(self._sizes(each)) > 1 and n >= at_a_time else ""
        note = "; ".join(filter(None, [each.note, size, f"{SCALED} {n} samples" if n < self.samples else ""]))
        return _Ready(each, Turn(partial(work, n), n / self.samples), note)

    def times(self, ready: Sequence[_Ready], rounds: int) -> Iterator[Measurement]:
        """Of each, in training epochs, and how many times as fast as others ours are."""
        turns = {EPOCHS: self.epoch, **{each.done.name: each.turn for each in ready}}
        seconds = interleave(turns, rounds, self.clock)
        for each in ready:
            yield Measurement(
                part="pass",
                model=self.workload.name,
                mode=each.done.name,
                setting=self.setting,
                quantity=EPOCHS,
                values=over(seconds[each.done.name], seconds[EPOCHS]),
                seconds=seconds[each.done.name],
                ours=each.done.by == OURS,
                note=each.note,
            )
        yield from _comparisons([each.done for each in ready], seconds, self.workload.name, self.setting)

    def _sizes(self, each: Pass) -> tuple[int, ...]:
        """Samples at a time between which a pass may choose; those that are no library's have numbers of their own."""
        sizes = self.workload.at_a_time(self.classes, each.all_classes_at_once)
        return sizes[:1] if each.by in NO_LIBRARIES else sizes

    def _fastest(self, each: Pass) -> int:
        """Of the sizes, that with which a pass takes the least time for a sample.

        Larger ones are tried one after the other, until one is clearly slower or fails, would take longer than a turn
        may, or is more than there are samples.
        """
        first, *larger = self._sizes(each)
        if not larger:
            return first
        best, least = first, self._seconds_a_sample(each, first)
        for size in larger:
            if size > self.samples or size * least > self.patience:
                break
            try:
                seconds = self._seconds_a_sample(each, size)
            except Exception:  # such as too little memory, which is no reason to leave the pass out
                break
            if seconds > CLEARLY * least:
                break
            if seconds < least:
                best, least = size, seconds
        return best

    def _seconds_a_sample(self, each: Pass, size: int) -> float:
        work = partial(each.measure, self.model, self.inputs[:size], self.targets[:size], size)
        return least_seconds(work, self.clock) / size


def _normalises_batches(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _fewest(each: Pass, classes: int) -> int:
    if each.by == LOOP:
        return FEWEST_OF_LOOP
    few, of_many = (FEWEST_OURS, FEWEST_OURS_OF_MANY) if each.by == OURS else (FEWEST, FEWEST_OF_MANY)
    return few if classes <= MANY else of_many


def affordable(work: Callable[[int], object], samples: int, fewest: int, patience: float, clock: Clock) -> int:
    """How many samples a pass can take within its patience, but at least ``fewest``; it is tried on more and more.

    Args:
        work: the pass over so many samples.
        samples: all that there are.
        fewest: to begin with.
        patience: in seconds.
        clock: to measure with.
    """
    n = min(samples, fewest)
    while n < samples:
        possible = int(n * patience / max(1e-9, seconds_of(partial(work, n), clock)))
        if possible < 2 * n:
            return max(n, possible)
        n = min(samples, possible)  # what a pass costs beside its samples made the estimate too low
    return n


def _comparisons(
    timed: Sequence[Pass], seconds: dict[str, list[float]], model: str, setting: str
) -> Iterator[Measurement]:
    """How many times as fast as each of the others ours is, at what both compute."""
    for mine in [each for each in timed if each.by == OURS]:
        others = [each for each in timed if each.computes == mine.computes and each.by != OURS]
        ratios = {other.by: over(seconds[other.name], seconds[mine.name]) for other in others}
        rivals = {by: values for by, values in ratios.items() if by not in NO_LIBRARIES}
        if rivals:
            fastest = [min(values) for values in zip(*rivals.values(), strict=True)]
            ratios[FASTEST_PEER] = fastest
        for by, values in ratios.items():
            yield Measurement(
                part="pass",
                model=model,
                mode=mine.name,
                setting=setting,
                quantity=f"{FASTER} {by}",
                values=values,
                better="higher",
            )
