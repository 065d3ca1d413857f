"""On a real Ray cluster, which is started on this machine."""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from study.campaign.carry_out import execute
from study.campaign.one_run import DIED
from study.campaign.ray_cluster import ClusterError
from study.records.store import RunStore
from study.run.run_environment import RunEnvironment
from study.run.specification import Run
from study.run.system import versions
from study.run.trainer import perform
from tests.study.clusters import cluster

ray = pytest.importorskip("ray")

HERE = RunEnvironment(Path())
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:ray", "ignore::ResourceWarning:ray")


class Deadly(Run):
    """A run whose process dies, as one does that is killed for its memory."""

    def __setstate__(self, state: dict) -> None:
        if ray.is_initialized():
            os.kill(os.getpid(), signal.SIGKILL)
        super().__setstate__(state)


@pytest.fixture(autouse=True)
def _quick_to_leave() -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster with one CPU."""
    with cluster(1) as found:
        yield found.address


def test_a_cluster_performs_the_same_runs_as_this_process_and_resumes_them(run_of, tmp_path, address):
    """On a cluster of its own, with two CPUs, although there is another."""
    store = RunStore(tmp_path)
    environment = RunEnvironment(Path(), store.under_way)
    runs = [run_of("ewc"), run_of("si", seed=1)]
    failing = run_of("ewc", strength=-1.0)
    records = {record.id: record for record in execute([*runs, failing], store, environment, 2, "local")}
    for run in runs:
        here = perform(run, HERE)
        assert records[run.id].error is None
        assert (records[run.id].accuracy, records[run.id].loss) == (here.accuracy, here.loss)
        assert store.read(run) == records[run.id]
    assert records[failing.id].outcome == "failed"
    assert "reg_lambda" in records[failing.id].last_line
    assert not any(store.under_way.glob("*.pt"))
    assert not ray.is_initialized()


def test_a_worker_that_dies_takes_neither_the_study_nor_other_runs_with_it(run_of, tmp_path, capsys, address):
    deadly = Deadly(**dict(run_of(seed=3)))
    store = RunStore(tmp_path)
    records = {record.run.seed: record for record in execute([deadly, run_of()], store, HERE, 1, address)}
    assert records[3].error == DIED
    assert store.read(run_of(seed=3)) is None
    assert records[0].finished
    assert capsys.readouterr().out == ""  # where Ray itself would say so, before the table of results


@pytest.mark.slow
def test_runs_of_a_node_that_is_lost_go_on_elsewhere_from_their_last_experience(run_of, tmp_path):
    """Two nodes on this machine, of which one is killed once every run has ended an experience."""
    store = RunStore(tmp_path)
    environment = RunEnvironment(Path(), store.under_way)
    long = run_of().training.model_copy(update={"epochs": 60})
    runs = [run_of("ewc", seed=seed, training=long) for seed in range(2)]
    with cluster(0, *(1 for _ in runs)) as found:

        def lose_one() -> None:
            while len([*store.under_way.glob("*.pt")]) < len(runs):
                time.sleep(0.02)
            found.remove_node(next(iter(found.worker_nodes)), allow_graceful=False)

        killer = threading.Thread(target=lose_one, daemon=True)
        killer.start()
        records = {record.id: record for record in execute(runs, store, environment, 2, found.address)}
        killer.join(timeout=1)
    assert not killer.is_alive()
    for run in runs:
        here = perform(run, HERE)
        assert (records[run.id].accuracy, records[run.id].loss) == (here.accuracy, here.loss)
    assert sorted(record.resumed for record in records.values()) == [0, 1]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_a_second_ctrl_c_waits_until_ray_has_let_go(run_of, tmp_path, monkeypatch, address):
    shutdown, done = ray.shutdown, []

    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        shutdown()
        done.append("let go")

    runs = execute([run_of()], RunStore(tmp_path), HERE, 1, address)
    next(runs)
    monkeypatch.setattr(ray, "shutdown", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runs.close()
    monkeypatch.undo()
    assert done == ["let go"]
    assert not ray.is_initialized()


def test_a_machine_with_other_versions_is_named_before_it_trains(run_of, tmp_path, monkeypatch, address):
    # the driver's; the worker has its own
    monkeypatch.setattr("study.campaign.ray_cluster.versions", lambda: {"torch": "0.1"})
    with pytest.raises(ClusterError) as error:
        list(execute([run_of()], RunStore(tmp_path), HERE, 1, address))
    found = rf"torch {re.escape(versions()['torch'])} instead of 0\.1"
    assert re.fullmatch(rf"{socket.gethostname()} has other versions: {found}; install the same", str(error.value))


class OfAnotherPackage(Run):
    """A run that a machine cannot read."""

    def __setstate__(self, state: dict) -> None:
        raise ModuleNotFoundError("No module named 'clreg'")


def test_a_machine_that_cannot_perform_runs_ends_the_study_in_one_line(run_of, tmp_path, address):
    with pytest.raises(ClusterError, match=r"\Aa machine of the cluster cannot perform runs: .*clreg.*\Z"):
        list(execute([OfAnotherPackage(**dict(run_of()))], RunStore(tmp_path), HERE, 1, address))


def test_a_cluster_without_a_gpu_is_not_asked_for_one(run_of, tmp_path, address):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ClusterError, match="has no GPU"):
        list(execute([run_of(device="cuda")], RunStore(tmp_path), HERE, 1, address))


@pytest.mark.parametrize("address", ["localhost:1", "ray://localhost:1", "nonsense", "localhost:99999999"])
def test_an_address_without_a_cluster_is_named_at_once(run_of, tmp_path, address):
    with pytest.raises(ClusterError, match=f"no Ray cluster at '{address}'"):
        list(execute([run_of()], RunStore(tmp_path), HERE, 1, address))
