"""The time of an importance pass in training epochs over the same data."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import torch
from torch import nn

from study.bench.libraries import other_libraries
from study.bench.passes import Importance, Pass, avalanche, ours
from study.bench.record import CLREG, Measurement, reason_of
from study.bench.workloads import Workload, training_epoch
from study.run.timing import Clock, Turn, clock_of, interleave, long_turn, over, seconds_of

EPOCHS = "training epochs"
RATE = "of a matrix product's rate"

COMPARED = 8
"""Samples that passes have to agree on before they are timed."""

TOLERANCE = 1e-4
"""Largest difference over the largest entry, in double precision."""

FEWEST = 16
"""Samples that the slowest pass is timed on."""

SIDE = 1024
"""Of the square matrices whose product is the reference of an MLP's exact Fisher."""


def measure_passes(
    workload: Workload, classes: int, device: torch.device, rounds: int, patience: float
) -> Iterator[Measurement]:
    """Every library's passes on a model with this many classes, in turns with a training epoch and a matrix product.

    A pass whose numbers differ from ours is not timed; those that draw at random are not compared. A pass that takes
    more than ``patience`` seconds is timed on fewer samples and its time is scaled.
    """
    clock, timing = clock_of(device), _Preparation(workload, classes, device, patience)
    about = {"model": workload.name, "setting": f"{classes} classes"}
    found, missing = other_libraries()
    for by, reason in missing.items():
        yield Measurement(**about, quantity=EPOCHS, method="all passes", by=by, note=reason)
    matrix = torch.rand(SIDE, SIDE, device=device)
    turns, timed = {EPOCHS: timing.epoch(), RATE: long_turn(lambda: matrix @ matrix, clock)}, {}
    for each in [*ours(), *found, *avalanche()]:
        name, reason = f"{each.computes}, {each.by}", ""
        try:
            timing.check(each)
            turns[name], timed[name] = timing.turn(each, clock), each
        except Exception as error:  # another library cannot handle this model
            reason = reason_of(error)
        if reason:
            yield Measurement(**about, quantity=EPOCHS, method=each.computes, by=each.by, note=reason)
            if device.type == "cuda":
                torch.cuda.empty_cache()  # outside of the handler, which keeps the pass's tensors
    seconds = interleave(turns, rounds, clock)
    for name, each in timed.items():
        about |= {"method": each.computes, "by": each.by, "seconds": median(seconds[name])}
        yield Measurement(**about, quantity=EPOCHS, values=over(seconds[name], seconds[EPOCHS]), note=each.note)
        if name == f"exact Fisher, {CLREG}" and workload.is_mlp:
            operations = workload.samples * least_operations(timing.model) / (2 * SIDE**3)
            rates = over([operations * product for product in seconds[RATE]], seconds[name])
            yield Measurement(**about, quantity=RATE, values=rates)


class _Preparation:
    """Passes on one model: checked, then made ready for their turns."""

    def __init__(self, workload: Workload, classes: int, device: torch.device, patience: float) -> None:
        self.workload, self.classes, self.device, self.patience = workload, classes, device, patience
        self.model = workload.model(classes, device)
        self.images = workload.images(workload.samples, classes, device)
        # in double precision rounding does not decide which entry of a pooling is the largest
        self.exact_model, self.exact_images = workload.model(classes, device).double(), self.images.first(COMPARED)
        self.references: dict[str, Importance] = {}

    def epoch(self) -> Turn:
        """A training epoch of another model, run once already."""
        work = training_epoch(self.workload.model(self.classes, self.device), self.images, self.workload.batch)
        work()
        return Turn(work)

    def check(self, each: Pass) -> None:
        """Run a pass; ValueError if its numbers differ from those of the first pass that computes the same: ours."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)  # BackPACK makes layers of its own in the default precision
        try:
            result = each.measure(self.exact_model, self.exact_images.double(), self.workload.sizes[0])
        finally:
            torch.set_default_dtype(before)
        normalises = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.model.modules())
        if not each.random and not (each.training_mode and normalises):
            difference = largest_difference(result, self.references.setdefault(each.computes, result))
            if not difference <= TOLERANCE:  # NaN included
                raise ValueError(f"its numbers differ from ours by {difference:.2g}; allowed: {TOLERANCE:g}")

    def turn(self, each: Pass, clock: Clock) -> Turn:
        """The pass over as many samples as its patience allows, run once already."""
        batch = self._best_batch(each, clock)

        def work(n: int) -> None:
            each.measure(self.model, self.images.first(n), batch)

        n = affordable(work, self.workload.samples, FEWEST, self.patience, clock)
        work(n)
        return Turn(partial(work, n), n / self.workload.samples)

    def _best_batch(self, each: Pass, clock: Clock) -> int:
        """The batch size with the least time per sample, of those that fit patience, samples and memory."""
        seconds: dict[int, float] = {}
        for size in self.workload.sizes if each.chooses_batch else ():
            if seconds and (size > self.workload.samples or size * min(seconds.values()) > self.patience):
                break
            work = partial(each.measure, self.model, self.images.first(size), size)
            try:
                work()
                seconds[size] = seconds_of(work, clock) / size
            except torch.OutOfMemoryError:
                break
        return min(seconds, key=seconds.__getitem__, default=self.workload.sizes[0])


def affordable(work: Callable[[int], object], samples: int, fewest: int, patience: float, clock: Clock) -> int:
    """How many of ``samples`` the pass ``work`` finishes within its patience in seconds, at least ``fewest``."""
    n = min(samples, fewest)
    while n < samples:
        possible = int(n * patience / max(1e-9, seconds_of(partial(work, n), clock)))
        if possible < 2 * n:
            return max(n, possible)
        n = min(samples, possible)  # the fixed cost of a pass made the estimate too low: try again
    return n


def largest_difference(result: Importance, expected: Importance) -> float:
    """Largest difference of two entries over the largest expected one, of the parameter where it is largest."""
    if result.keys() != expected.keys():
        return math.inf
    pairs = [(result[name].to(reference), reference) for name, reference in expected.items()]
    return float(torch.stack([(a - b).abs().max() / b.abs().max().clamp_min(1e-30) for a, b in pairs]).max())


def least_operations(model: nn.Sequential) -> int:
    """Floating-point operations of an MLP's exact Fisher of one sample, at least: those of its matrix products.

    For a layer with weight W and C classes: forward 2 |W|; backward to the outputs of the layer before it 2 |W| for
    each of C − 1 cotangents (the rank of diag(π) − ππᵀ), except in the first; one contraction ``(Σ_k g_k²)ᵀ a²``,
    2 |W|.

    Example:
        >>> least_operations(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))
        176
    """
    first, *others = [layer.weight.numel() for layer in model if isinstance(layer, nn.Linear)]
    return 4 * first + sum((2 + 2 * model[-1].out_features) * weights for weights in others)
