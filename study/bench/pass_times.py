"""An importance pass in training epochs over the same data."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from study.bench import passes
from study.bench.other_libraries import other_libraries
from study.bench.passes import OURS, Moments, Pass
from study.bench.record import Agreement, Measurement, Skipped
from study.bench.same_numbers import agreement, double_precision
from study.bench.timing import Clock, Turn, clock_of, interleave, over, seconds_of
from study.bench.workloads import Workload, training_epoch

EPOCHS = "training epochs"
FASTER = "times as fast as"
FASTEST_PEER = "the fastest peer"
SCALED = "scaled from"
COMPARED = 32
"""Samples that passes must agree on before they are timed."""

FEWEST = 64
"""Samples that a pass which is slow is timed on at least."""

FEWEST_OURS = 256
"""The same for ours, of more than 10 classes: a batch. Of 10 classes ours are timed on all samples."""


def measure_passes(
    workload: Workload, classes: int, device: torch.device, rounds: int, samples: int, patience: float
) -> Iterator[Measurement | Skipped | Agreement]:
    """Every pass that works on the model and gives the right numbers, with its time in training epochs.

    Args:
        workload: the model.
        classes: of its outputs.
        device: where.
        rounds: turns of every pass.
        samples: in the pass, and in the epoch.
        patience: seconds that a turn may take. A slower pass is timed on fewer samples, and its time scaled.
    """
    model, setting = workload.model(classes, device), f"{classes} classes"
    # in double precision, where rounding decides no maximum of a pooling one way or the other
    exact_model = workload.model(classes, device).double()
    inputs, targets = workload.images(samples, classes, device)
    batch = max(1, workload.wide * 10 // max(10, classes))
    clock = clock_of(device)
    found, missing = other_libraries()

    def skipped(mode: str, reason: str) -> Skipped:
        return Skipped(part="pass", model=workload.name, mode=mode, setting=setting, reason=reason)

    for name, reason in missing.items():
        yield skipped(name, reason)
    turns = {EPOCHS: Turn(training_epoch(workload.model(classes, device), inputs, targets, workload.batch))}
    timed: dict[str, Pass] = {}
    notes: dict[str, str] = {}
    references: dict[str, tuple[str, Moments]] = {}
    # references first: one at a time where there is such a loop, and ours for what only Avalanche computes, too
    for each in [*passes.one_at_a_time(), *passes.ours(), *found, *passes.avalanche()]:

        def work(n: int, each: Pass = each) -> None:
            each.measure(model, inputs[:n], targets[:n], batch)

        try:
            with double_precision():
                result = each.measure(exact_model, inputs[:COMPARED].double(), targets[:COMPARED], batch)
            n = affordable(work, samples, _fewest(each, samples, classes), patience, clock)
        except Exception as error:  # whatever a peer cannot do with this model
            yield skipped(each.name, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
            continue
        compared = agreement(each, result, references, workload.name, setting)
        if each.batch_statistics and _normalises_batches(model):
            compared = None
        elif compared is None and not each.random:
            references[each.computes] = (each.name, result)
        if compared is not None:
            yield compared
            if not compared.holds:
                reason = f"its numbers are not those of {compared.reference}: {compared.difference:.2g} off"
                yield skipped(each.name, reason)
                continue
        notes[each.name] = "; ".join(filter(None, [each.note, f"{SCALED} {n} samples" if n < samples else ""]))
        timed[each.name] = each
        turns[each.name] = Turn(partial(work, n), n / samples)
    seconds = interleave(turns, rounds, clock)

    for name, each in timed.items():
        yield Measurement(
            part="pass",
            model=workload.name,
            mode=name,
            setting=setting,
            quantity=EPOCHS,
            values=over(seconds[name], seconds[EPOCHS]),
            seconds=seconds[name],
            ours=each.by == OURS,
            note=notes[name],
        )
    yield from _comparisons(timed, seconds, workload.name, setting)


def _normalises_batches(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _fewest(each: Pass, samples: int, classes: int) -> int:
    if each.by != OURS:
        return FEWEST
    return samples if classes <= 10 else FEWEST_OURS


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
    timed: dict[str, Pass], seconds: dict[str, list[float]], model: str, setting: str
) -> Iterator[Measurement]:
    """How many times as fast as each of the others ours is, at what both compute."""
    for mine in [each for each in timed.values() if each.by == OURS]:
        others = [each for each in timed.values() if each.computes == mine.computes and each.by != OURS]
        ratios = {other.by: over(seconds[other.name], seconds[mine.name]) for other in others}
        rivals = {by: values for by, values in ratios.items() if by not in ("one at a time", "Avalanche")}
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
