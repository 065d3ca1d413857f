"""Runs in processes of this machine."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for

from study.campaign.one_run import DIED, SILENT, TRIES, Silence, lost, perform_and_store
from study.records.run_record import RunRecord
from study.records.store import RunStore
from study.run.run_environment import RunEnvironment
from study.run.specification import Run

SPAWN = multiprocessing.get_context("spawn")

GRACE = 5.0
"""Seconds that a process has to end when it is told to; a stopped one does not, and is killed."""

FAREWELL = 60.0
"""Seconds that an idle process has to end by itself, and W&B's service, which writes the end of a run after its run."""


def usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def execute_in_processes(
    runs: Iterable[Run],
    store: RunStore,
    environment: RunEnvironment,
    jobs: int,
    max_silence: float | None,
    say: Callable[[str], None],
) -> Iterator[RunRecord]:
    """As :func:`study.campaign.carry_out.execute`, with each run in one of ``jobs`` processes.

    A process that dies or is silent for too long takes its own run with it and no other.
    """
    waiting = deque((run, 1) for run in runs)
    idle: list[Worker] = []
    busy: list[Worker] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < jobs:
                idle = [worker for worker in idle if worker.process.is_alive()]
                busy.append(idle.pop() if idle else Worker())
                busy[-1].begin(*waiting.popleft(), store, environment, max_silence)
            for worker in _that_ended(busy, look_again=max_silence is not None):
                busy.remove(worker)
                if worker.problem is None:
                    idle.append(worker)
                    yield worker.record()
                    continue
                worker.kill()
                if (record := store.read(worker.run)) is not None and record.final:
                    store.drop_under_way([record.id])  # which is left where the process died after it wrote the record
                    yield record
                elif worker.tries < TRIES:
                    say(f"{worker.run}: {worker.problem}; it is restarted")
                    waiting.appendleft((worker.run, worker.tries + 1))
                else:
                    yield lost(worker.run, worker.problem)
    finally:
        _stop(idle, busy)


class Worker:
    """A process that performs runs one after the other.

    Attributes:
        run, tries: what it performs, and which try it is.
        problem: why there is no record; None if there is one, or an error of the machine's.
    """

    run: Run
    tries: int
    problem: str | None

    def __init__(self) -> None:
        self._connection, theirs = SPAWN.Pipe()
        resource_tracker.ensure_running()  # the first process would start it, which unblocks SIGINT
        self.process = SPAWN.Process(target=_serve, args=(theirs,))
        try:
            with _interrupts_held_back():
                self.process.start()
        except KeyboardInterrupt:  # which comes when it is no longer held back
            self.process.kill()
            raise
        theirs.close()  # so that reading ends when the process does

    def begin(
        self, run: Run, tries: int, store: RunStore, environment: RunEnvironment, max_silence: float | None
    ) -> None:
        self.run, self.tries, self.problem = run, tries, None
        self._silence = None if max_silence is None else Silence(store.under_way / f"{run.id}.json", max_silence)
        self._answer: RunRecord | Exception | None = None
        with suppress(ConnectionError):  # it died while it was idle
            self._connection.send((run, store, environment))

    @property
    def handles(self) -> tuple[Connection, int]:
        return self._connection, self.process.sentinel

    def has_ended(self) -> bool:
        """Whether there is a record, or a problem."""
        alive = self.process.is_alive()  # before its last message is looked for
        try:
            if self._connection.poll():
                self._answer = self._connection.recv()
                return True
        except (EOFError, OSError):
            alive = False
        if not alive:
            self.problem = DIED
        elif self._silence is not None and self._silence.is_too_long(time.monotonic()):
            self.problem = SILENT
        return self.problem is not None

    def dismiss(self) -> None:
        """Let an idle one end by itself."""
        self._connection.close()

    def kill(self) -> None:
        self.process.kill()  # ends a stopped process too
        self.process.join(GRACE)
        self._connection.close()

    def record(self) -> RunRecord:
        """The record.

        Raises:
            Exception: what ended the run and is the machine's, not the run's.
        """
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def _that_ended(busy: Sequence[Worker], look_again: bool) -> list[Worker]:
    """Those with a record or a problem; at least one, unless ``look_again``, which waits a second at most."""
    wait_for([handle for worker in busy for handle in worker.handles], timeout=1.0 if look_again else None)
    return [worker for worker in busy if worker.has_ended()]


def _stop(idle: Sequence[Worker], busy: Sequence[Worker]) -> None:
    """End processes; nobody waits any more for the runs of those that are busy."""
    for worker in idle:
        worker.dismiss()
    for worker in busy:
        worker.process.terminate()
    now = time.monotonic()
    try:
        for workers, seconds in ((busy, GRACE), (idle, FAREWELL)):
            for worker in workers:
                worker.process.join(max(0.0, now + seconds - time.monotonic()))
    finally:  # also if another Ctrl-C ends the wait
        for worker in (*idle, *busy):
            worker.kill()


def _serve(connection: Connection) -> None:
    """Perform what comes until the parent ends."""
    _end_with_parent()
    while True:
        try:
            run, store, environment = connection.recv()
        except EOFError:
            return
        try:
            answer: RunRecord | Exception = perform_and_store(run, store, environment)
        except Exception as error:  # of the machine: the parent raises it
            answer = error if _survives_pickling(error) else RuntimeError("".join(traceback.format_exception(error)))
        connection.send(answer)


def _survives_pickling(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # which pickling raises of every kind
        return False
    return True


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
