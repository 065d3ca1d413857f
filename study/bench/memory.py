"""Memory: what a plugin holds at an experience, and the peak of an importance pass over its bound."""

import ctypes
import gc
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import torch

from clreg_plugins import fisher_diagonal
from study.bench.plugins import PLUGINS, StrategyStub
from study.bench.record import CLREG, Measurement
from study.bench.step import FEW, prepared_step
from study.bench.workloads import Workload
from study.run.batches import InMemoryLoader
from study.run.instruments import held_bytes, peak_memory, reset_peak_memory, system_bytes
from study.run.models import parameter_bytes

HELD = "copies of the parameters"
PEAK = "of max_bytes"


def measure_held(
    workload: Workload, method: str, device: torch.device, experiences: Sequence[int]
) -> Iterator[Measurement]:
    """What every library's plugin of a method holds during an experience, counted from 1, after a step of it."""
    images = workload.images(FEW, 10, device)
    for by, plugins in PLUGINS.items():
        for experience in experiences if method in plugins else ():
            model, plugin = workload.model(10, device), plugins[method]()
            prepared_step(plugin, StrategyStub(model), images, experience)()
            held = held_bytes(plugin, model)
            yield Measurement(
                model=workload.name,
                method=method,
                by=by,
                setting=f"experience {experience}",
                quantity=HELD,
                values=((held.state + held.scratch) / parameter_bytes(model),),
            )


def measure_peak(workload: Workload, device: torch.device, bound: int, samples: int) -> Iterator[Measurement]:
    """The peak of an exact Fisher's pass, beyond the memory before it and its result, over ``bound``, its max_bytes.

    All samples come as one batch, which the pass has to cut. On a CPU the peak is that of a new process.
    """
    arguments = workload, device, bound, samples, torch.get_num_threads()
    if device.type == "cpu":
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            peak = fresh.submit(_peak, *arguments).result()
    else:
        peak = _peak(*arguments)
    yield Measurement(
        model=workload.name,
        method="exact Fisher",
        by=CLREG,
        setting=f"max_bytes = {bound // 2**20} MiB",
        quantity=PEAK,
        values=(peak / bound,),
    )


def _peak(workload: Workload, device: torch.device, bound: int, samples: int, threads: int) -> int:
    torch.set_num_threads(threads)
    model, images = workload.model(10, device), workload.images(samples, 10, device)
    data = InMemoryLoader([images.inputs, images.targets], samples)
    fisher_diagonal(model, data, n_samples=FEW)  # what libraries allocate once is no part of the pass
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # the C library keeps freed memory, which the pass would use without raising the peak
    reset_peak_memory(device)
    on_gpu = device.type == "cuda"
    before = torch.cuda.memory_allocated(device) if on_gpu else system_bytes("self/status", "VmRSS")
    before = peak_memory(device) if before is None else before
    result = fisher_diagonal(model, data, max_bytes=bound)
    return max(0, peak_memory(device) - before - sum(value.nbytes for value in result.values()))
