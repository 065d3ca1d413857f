"""Runs in processes of this machine."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for

from study.campaign.one_run import LOST, perform_and_store
from study.records.run_record import RunRecord, record_of
from study.records.store import RunStore
from study.run.result import RunResult
from study.run.run_environment import RunEnvironment
from study.run.specification import Run


def usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def execute_in_processes(
    runs: Iterable[Run], store: RunStore, environment: RunEnvironment, jobs: int
) -> Iterator[RunRecord]:
    """As :func:`study.campaign.carry_out.execute`, with each run in one of ``jobs`` processes."""
    waiting = deque(runs)
    while waiting:
        yield from _until_a_process_dies(waiting, store, environment, jobs)


def _until_a_process_dies(
    waiting: deque[Run], store: RunStore, environment: RunEnvironment, jobs: int
) -> Iterator[RunRecord]:
    """Take runs from ``waiting`` until it is empty or a process dies, which ends all processes of the pool."""
    under_way: dict[Future[RunRecord], Run] = {}
    with _pool(jobs) as pool:
        try:
            while waiting or under_way:
                while waiting and len(under_way) < jobs:
                    with _interrupts_held_back():
                        under_way[pool.submit(perform_and_store, waiting[0], store, environment)] = waiting[0]
                    waiting.popleft()
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    record = future.result()
                    del under_way[future]
                    yield record
        except BrokenProcessPool:
            for future, run in under_way.items():
                lost = isinstance(future.exception(), BrokenProcessPool)
                # not stored as failed: the next call tries it again
                yield record_of(run, RunResult(outcome="failed", error=LOST)) if lost else future.result()


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        yield pool
    finally:  # idle after the last run, otherwise busy with runs that nobody waits for any more
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Block SIGINT in processes started here: Ctrl-C reaches the whole group, but only the parent handles it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """End this worker when its parent ends, even by a kill."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
