"""One call with many runs: what its processes hold after the first tenth of them, and at the end."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from tests.study.conftest import ALL_METHODS
from tests.study.processes import Command
from tests.torture.record import WHOLE, Measured, Tried, in_one_call

METHODS = ("naive", "l2", "ewc", "si", "replay-matched")
RUNS = 5
"""For each cycle."""

GROWTH = 1.1
"""What each kind of process may hold at the end, at most, as a multiple of what it held after a tenth of the runs."""

KINDS = ("driver", "workers", "W&B's services", "other processes")


@dataclass(frozen=True)
class Sample:
    """What all processes of a kind hold together when so many runs have ended."""

    done: int
    kind: str
    memory: int
    handles: int
    processes: int


def soak(cycles: int, seed: int, folder: Path) -> Iterator[Tried | Measured]:
    """Five runs for each cycle in one call, two at a time, with W&B offline."""
    seeds = max(1, round(RUNS * cycles / len(METHODS)))
    runs, out = seeds * len(METHODS), folder / "out"
    only = ["--methods", ",".join(METHODS), "--scenario", "class", "--seeds", seeds, "--jobs", 2, "--out", out]
    samples: list[Sample] = []
    with Command("run", ALL_METHODS, *only) as command:
        while not command.ended:
            samples += sampled(command, len(list(out.glob("*.json"))))
            time.sleep(1.0)
        seconds = time.time() - command.began
        tried = in_one_call("runs in one call, with W&B offline", command, out, runs)
    unseen = [f"no sample of {kind}" for kind in KINDS[:3] if all(sample.kind != kind for sample in samples)]
    yield tried.model_copy(update={"wrong": (*tried.wrong, *unseen)})
    yield Measured(what="seconds a run, two at a time", value=seconds / runs, unit="s")
    yield from growth(samples, runs, bounded=cycles >= WHOLE)


def growth(samples: list[Sample], runs: int, bounded: bool) -> Iterator[Measured]:
    """What each kind of process held after a tenth of the runs, at the end, and how it grew in between."""
    tenth = runs // 10
    for kind in KINDS:
        later = [each for each in samples if each.kind == kind and each.done >= tenth]
        if not later:
            continue
        for name, unit, size in (("memory", "MiB", 2**20), ("handles", "handles", 1), ("processes", "processes", 1)):
            held = np.array([getattr(each, name) / size for each in later])
            done = np.array([each.done for each in later])
            few = max(1, len(held) // 20)
            start, end = float(median(held[:few])), float(median(held[-few:]))
            most = GROWTH * start if bounded else None
            yield Measured(what=f"{kind}: {name} after {tenth} runs", value=start, unit=unit)
            yield Measured(what=f"{kind}: {name} after {runs} runs", value=end, unit=unit, at_most=most)
            if name == "memory" and len(set(done)) > 1:
                slope = 100 * float(np.polyfit(done, held, 1)[0])
                yield Measured(what=f"{kind}: memory, slope", value=slope, unit="MiB per 100 runs")


def sampled(command: Command, done: int) -> Iterator[Sample]:
    """One sample of each kind of process."""
    found: dict[str, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
    with suppress(psutil.Error):
        driver = psutil.Process(command.process.pid)
        for process in (driver, *driver.children(recursive=True)):
            with suppress(psutil.Error):  # it has just ended
                held = process.memory_info().rss, process.num_fds()
                found[_kind(process, driver)].append(held)
    for kind, each in found.items():
        if each:
            yield Sample(done, kind, sum(memory for memory, _ in each), sum(n for _, n in each), len(each))


def _kind(process: psutil.Process, driver: psutil.Process) -> str:
    if process == driver:
        return "driver"
    if process.name() == "wandb-core":
        return "W&B's services"
    return "workers" if "--multiprocessing-fork" in process.cmdline() else "other processes"
