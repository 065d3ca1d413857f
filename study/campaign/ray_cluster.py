"""Runs on a Ray cluster."""

import importlib.util
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from study.campaign.one_run import DIED, TRIES, is_lost, keep, lost, perform_and_record
from study.errors import StudyError
from study.records.run_record import RunRecord
from study.records.store import RunStore
from study.run.run_environment import RunEnvironment
from study.run.specification import Run
from study.run.system import versions


class ClusterError(StudyError):
    """The cluster cannot be used."""


def execute_on_cluster(
    runs: Iterable[Run],
    store: RunStore,
    environment: RunEnvironment,
    jobs: int,
    address: str,
    gpus: float,
    say: Callable[[str], None],
) -> Iterator[RunRecord]:
    """As :func:`study.campaign.carry_out.execute`, on a Ray cluster.

    The driver writes the records. All machines need the data folder and, to resume runs, the folder of checkpoints: a
    shared file system. A run whose worker or machine is lost is restarted once, where there is room.

    Args:
        runs, store, environment, say: as there.
        jobs: runs at a time at most, with one CPU each.
        address: HOST:PORT or ray://HOST:PORT, "auto" for the cluster of this machine, or "local" to start one here.
        gpus: share of a GPU that each run on "cuda" takes.

    Raises:
        OSError: a record cannot be written.
        ClusterError: Ray is not installed, no cluster is at the address, or it lacks a GPU or the same versions.
    """
    runs = list(runs)
    ray = _connected(address, jobs)
    try:
        if any(run.device == "cuda" for run in runs) and not ray.cluster_resources().get("GPU"):
            raise ClusterError(f"--device cuda: the Ray cluster at {address!r} has no GPU; allowed: cpu")
        task = ray.remote(max_retries=0)(_perform)  # Ray would retry without end where memory runs out
        waiting, under_way = deque((run, 1) for run in runs), {}
        while waiting or under_way:
            while waiting and len(under_way) < jobs:
                run, tries = waiting.popleft()
                where = task.options(num_cpus=1, num_gpus=gpus * (run.device == "cuda"), name=str(run))
                under_way[where.remote(run, environment, versions())] = run, tries
            (reference,), _ = ray.wait(list(under_way), num_returns=1)
            run, tries = under_way.pop(reference)
            record = _result(ray, reference, run, say)
            if is_lost(record) and tries < TRIES:
                waiting.append((run, tries + 1))
                continue
            if not is_lost(record):
                keep(record, store, environment)
            yield record
    finally:
        with _ctrl_c_waits():  # interrupted, Ray ends this process with a code of its own
            ray.shutdown()  # ends unfinished runs


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Raise KeyboardInterrupt afterwards. Blocking the signal would not do: Ray's threads receive it too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _perform(run: Run, environment: RunEnvironment, asked_for: dict[str, str]) -> RunRecord:
    here = versions()
    differing = [f"{name} {here.get(name)} instead of {v}" for name, v in asked_for.items() if here.get(name) != v]
    if differing:
        raise ClusterError(f"{socket.gethostname()} has other versions: {', '.join(differing)}; install the same")
    return perform_and_record(run, environment)


def _result(ray: Any, reference: Any, run: Run, say: Callable[[str], None]) -> RunRecord:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, StudyError | OSError):
            raise error.cause from None  # what perform() raises is the machine's, not the run's
        brief = " ".join(str(error.cause).split())
        raise ClusterError(f"a machine of the cluster cannot perform runs: {brief}") from error
    except ray.exceptions.RayError as error:
        say(f"{run} is lost: {str(error).strip().partition(chr(10))[0]}")
        return lost(run, DIED)


def check_cluster(address: str) -> None:
    """Check early whether a cluster answers; Ray itself waits for minutes.

    Raises:
        ClusterError: Ray is not installed, or nothing listens at the address.
    """
    if importlib.util.find_spec("ray") is None:
        raise ClusterError("Ray is not installed; in the folder of clreg: pip install -e '.[ray]'")
    if address not in ("local", "auto"):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError, OverflowError) as error:
            raise ClusterError(_nothing_at(address, error)) from error


def _connected(address: str, jobs: int) -> Any:
    check_cluster(address)
    import ray

    own = {"num_cpus": jobs, "include_dashboard": False} if address == "local" else {}
    try:  # without its address Ray would join a cluster that somebody else runs here
        ray.init(address=address, **own, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ClusterError(_nothing_at(address, error)) from error
    return ray


def _nothing_at(address: str, error: Exception) -> str:
    return f"no Ray cluster at {address!r} ({error}); allowed: local, auto, HOST:PORT, or ray://HOST:PORT"
