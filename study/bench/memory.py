"""Bytes: what a plugin holds after many experiences, and what an importance pass takes beside its bound."""

import ctypes
import gc
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch

from clreg_plugins import fisher_diagonal
from study.bench.plugins import KINDS, learn, strategy_stub, training_step
from study.bench.record import Measurement
from study.bench.steps import FEW
from study.bench.workloads import Workload
from study.run.batches import InMemoryLoader
from study.run.instruments import held_bytes, peak_memory, reset_peak_memory, system_bytes
from study.run.models import parameter_bytes

STATE = "state held, in copies of the parameters"
SCRATCH = "scratch held beside it, in copies of the parameters"
PEAK = "peak of the pass over its bound"


def measure_held(workload: Workload, device: torch.device, experiences: Sequence[int]) -> Iterator[Measurement]:
    """What every plugin holds after so many experiences, a step of the next one included."""
    images = workload.images(FEW, 10, device)
    for kind, factories in KINDS.items():
        if kind == "plain autograd":
            continue
        for method, make in factories.items():
            for count in experiences:
                model = workload.model(10, device)
                strategy, plugin = strategy_stub(model), make()
                learn(plugin, strategy, images, count)
                training_step(strategy, plugin, *images)()
                held, unit = held_bytes(plugin, model), parameter_bytes(model)
                for quantity, size in ((STATE, held.state), (SCRATCH, held.scratch)):
                    yield Measurement(
                        part="memory",
                        model=workload.name,
                        mode=f"{method}, {kind}",
                        setting=f"after experience {count}",
                        quantity=quantity,
                        values=(size / unit,),
                        ours=kind.startswith("ours"),
                    )


def measure_peaks(
    workload: Workload,
    classes: int,
    device: torch.device,
    bounds: Sequence[int],
    samples: int,
    rounds: int,
) -> Iterator[Measurement]:
    """The most that an exact Fisher's pass took beyond what was there before and its own result, over ``max_bytes``.

    All samples are read as one batch, so that the pass has to cut it down itself. On a CPU it is the memory of a
    process of its own, to which the libraries' scratch and what the allocator keeps belong: in one that did other work
    before, what that left in pieces would be counted, too.

    Args:
        workload: the model.
        classes: of its outputs.
        device: where.
        bounds: each a ``max_bytes``, in bytes.
        samples: in the one batch.
        rounds: passes a bound.
    """
    for bound in bounds:
        measure = partial(_peaks, workload, classes, device, bound, samples, rounds)
        if device.type == "cpu":
            threads = (torch.get_num_threads(),)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), torch.set_num_threads, threads) as fresh:
                peaks = fresh.submit(measure).result()
        else:
            peaks = measure()
        yield Measurement(
            part="memory",
            model=workload.name,
            mode="exact Fisher, ours",
            setting=f"{classes} classes, max_bytes = {bound // 2**20} MiB",
            quantity=PEAK,
            values=tuple(max(0, peak) / bound for peak in peaks),
            note=f"{samples} samples in one batch",
        )


def _peaks(workload: Workload, classes: int, device: torch.device, bound: int, samples: int, rounds: int) -> list[int]:
    """Bytes, of each round."""
    model = workload.model(classes, device)
    data = InMemoryLoader(workload.images(samples, classes, device), samples)
    fisher_diagonal(model, data, n_samples=FEW)  # what libraries allocate once is no part of the pass
    measure = partial(fisher_diagonal, model, data, max_bytes=bound)
    return [_peak_beyond(measure, device) - parameter_bytes(model) for _ in range(rounds)]


def _peak_beyond(work: Callable[[], object], device: torch.device) -> int:
    """Bytes at the peak of some work, beyond those before it."""
    gc.collect()
    _give_back_freed_memory()
    reset_peak_memory(device)
    before = _held_now(device)
    result = work()
    peak = peak_memory(device)
    del result
    return peak - before


def _held_now(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    held = system_bytes("self/status", "VmRSS")
    return peak_memory(device) if held is None else held


def _give_back_freed_memory() -> None:
    """What the C library keeps of memory that was freed would be used again, and not be seen in the peak."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
