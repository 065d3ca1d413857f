"""Runs in, records out, over local processes or a Ray cluster."""

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

from study.conditions import Conditions
from study.records import Run, RunRecord, record_of
from study.store import RunStore

LOST = "the process of this run died (killed, or out of memory?)"


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def execute(
    runs: Iterable[Run], store: RunStore, conditions: Conditions, jobs: int, cluster: str | None = None
) -> Iterator[RunRecord]:
    """Perform runs and yield the record of each as it ends, finished or not.

    A record is in the store before it is yielded. Closing the iterator, or an interrupt, stops the runs under
    way and loses nothing that finished, and of a run under way no more than the experience in progress.

    Args:
        runs: in the order in which they start.
        store: for the records.
        conditions: of the runs.
        jobs: how many run at a time: 1 in this process, more in processes of their own.
        cluster: the address of a Ray cluster that performs them instead, or "local" for one on this machine.

    Raises:
        OSError: a record or checkpoint cannot be written.
        ClusterError: there is no such cluster, or Ray is not installed.
    """
    if cluster is not None:
        from study.cluster import execute_on_cluster  # Ray is optional

        yield from execute_on_cluster(runs, store, conditions, jobs, cluster)
    elif jobs == 1:
        yield from (_perform_and_store(run, store, conditions) for run in runs)
    else:
        waiting = deque(runs)
        while waiting:
            yield from _until_a_process_dies(waiting, store, conditions, jobs)


def _until_a_process_dies(
    waiting: deque[Run], store: RunStore, conditions: Conditions, jobs: int
) -> Iterator[RunRecord]:
    """Take runs from ``waiting`` until it is empty, or a process dies and takes those beside it along."""
    under_way: dict[Future[RunRecord], Run] = {}
    with _pool(jobs) as pool:
        try:
            while waiting or under_way:
                while waiting and len(under_way) < jobs:
                    with _interrupts_held_back():
                        under_way[pool.submit(_perform_and_store, waiting[0], store, conditions)] = waiting[0]
                    waiting.popleft()
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    record = future.result()
                    del under_way[future]
                    yield record
        except BrokenProcessPool:
            for future, run in under_way.items():
                lost = isinstance(future.exception(), BrokenProcessPool)
                # not stored as failed: the next call tries it again
                yield record_of(run, "failed", error=LOST) if lost else future.result()


def _perform_and_store(run: Run, store: RunStore, conditions: Conditions) -> RunRecord:
    from study.training import perform  # imports torch and Avalanche, needless for a parent that only waits

    record = perform(run, conditions)
    keep(record, store, conditions)
    return record


def keep(record: RunRecord, store: RunStore, conditions: Conditions) -> None:
    """Write a record, and only then let go of the checkpoint that the run could have gone on from.

    A run that failed, for instance for want of memory, keeps it: it will be tried again.
    """
    store.write(record)
    if conditions.checkpoints is not None and record.outcome != "failed":
        for path in conditions.checkpoints.glob(f"{record.id}.*"):
            path.unlink(missing_ok=True)


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
    """Processes started in here do not see Ctrl-C; a terminal sends it to all, but it is for the parent."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Let a worker end when its parent is gone, even if that was killed."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
