"""What each tuned constant of an importance pass buys: ``python -m study.bench.constants [cpu | cuda]``.

A line for each: the time of a pass with a neutral value over that with ours, median and quartiles over rounds in which
both take turns. On a CPU it is the process's own time, which other processes disturb less.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import product
from statistics import quantiles

import torch

from clreg_plugins import fisher_diagonal
from clreg_plugins.importance.engine import data, general_path, memory, moments
from clreg_plugins.importance.engine.layer_rules import convolution, rule
from study.bench.workloads import CNN, MLP_400, REDUCED_RESNET, Workload
from study.run.timing import Turn, clock_of, interleave, over

UNLIMITED = 2**50
NEUTRAL = {
    "JOINED": ([data], 256),
    "GROUP": ([general_path, memory], 1),
    "CACHE_BYTES": ([rule, convolution], UNLIMITED),
    "MANY_POSITIONS": ([convolution], UNLIMITED),
    "VECTOR": ([convolution], 1),
    "SMALL": ([rule], 0),
    "OUTPUT_BYTES": ([memory], UNLIMITED),
}
"""By constant: the modules that hold it, and the value that turns it off."""

SAMPLES = {MLP_400: 4096, CNN: 256, REDUCED_RESNET: 96}
VARIANTS = ("exact", "empirical")
ROUNDS = 7


@contextlib.contextmanager
def turned_off(name: str) -> Iterator[None]:
    modules, neutral = NEUTRAL[name]
    before = getattr(modules[0], name)
    try:
        for module in modules:
            setattr(module, name, neutral)
        yield
    finally:
        for module in modules:
            setattr(module, name, before)


def ratios(workload: Workload, variant: str, device: torch.device) -> dict[str, tuple[float, ...]]:
    """The time of a pass without each constant over that with all of them, one entry per round."""
    model = workload.build(10).to(device)
    images = workload.images(SAMPLES[workload], 10, device)

    def run(name: str | None) -> None:
        with turned_off(name) if name else contextlib.nullcontext():
            fisher_diagonal(model, images.dataset, variant=variant)

    run(None)
    clock = time.process_time if device.type == "cpu" else clock_of(device)
    seconds = interleave({name: Turn(lambda name=name: run(name)) for name in ("", *NEUTRAL)}, ROUNDS, clock)
    return {name: over(seconds[name], seconds[""]) for name in NEUTRAL}


def without_keeping_memory() -> None:
    """Time a pass of the MLP in this process, with or without the allocator's setting, and print the seconds."""
    if sys.argv[2] == "off":
        moments.keep_freed_memory = lambda: None
    model, images = MLP_400.build(10), MLP_400.images(2048, 10, torch.device("cpu"))
    fisher_diagonal(model, images.dataset)
    start = time.process_time()
    for _ in range(3):
        fisher_diagonal(model, images.dataset)
    print(time.process_time() - start)


def show(what: str, found: Sequence[float]) -> None:
    low, median, high = quantiles(found, n=4)
    print(f"{what} {median:.2f} [{low:.2f}, {high:.2f}]", flush=True)


def main() -> None:
    device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
    for workload, variant in product(SAMPLES, VARIANTS):
        for name, found in ratios(workload, variant, device).items():
            show(f"{workload.name}, {variant}: without {name}", found)
    if device.type == "cpu":
        seconds = {"on": [], "off": []}
        for _ in range(ROUNDS // 2):
            for setting, found in seconds.items():
                command = [sys.executable, "-m", "study.bench.constants", "memory", setting]
                found.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        show(f"{MLP_400.name}, exact: without keep_freed_memory", over(seconds["off"], seconds["on"]))


if __name__ == "__main__":
    without_keeping_memory() if sys.argv[1:2] == ["memory"] else main()
