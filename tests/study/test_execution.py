import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from study import training
from study.execution import LOST, execute
from study.records import Run, RunRecord, RunStore
from study.training import accuracy_matrix


class Deadly(Run):
    """A run whose process dies, as one does that is killed for its memory."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_process_that_dies_takes_neither_the_study_nor_other_runs_with_it(run_of, tmp_path):
    deadly = [Deadly(**dict(run_of(seed=seed))) for seed in (1, 2)]
    store = RunStore(tmp_path)
    records = {record.run.seed: record for record in execute([*deadly, run_of()], store, jobs=2)}
    assert [records[seed].error for seed in (1, 2)] == [LOST, LOST]
    assert records[0].accuracy == accuracy_matrix(run_of()), "another process, other numbers"
    assert store.read(run_of()) == records[0]
    assert store.read(deadly[0]) is None


def test_a_run_that_fails_is_recorded_and_the_others_go_on(run_of, tmp_path, monkeypatch):
    def fail_for_seed_1(run: Run) -> list[list[float]]:
        if run.seed == 1:
            raise FloatingPointError("the loss is nan")
        return [[1.0]]

    monkeypatch.setattr(training, "accuracy_matrix", fail_for_seed_1)
    store = RunStore(tmp_path)
    records = list(execute([run_of(seed=seed) for seed in range(3)], store, jobs=1))
    assert [record.finished for record in records] == [True, False, True]
    assert [store.read(record.run) for record in records] == records


def test_closing_early_stops_and_keeps_what_finished(run_of, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "accuracy_matrix", lambda run: [[1.0]])
    store = RunStore(tmp_path)
    records = execute([run_of(seed=seed) for seed in range(3)], store, jobs=1)
    next(records)
    records.close()
    assert [store.read(run_of(seed=seed)) is not None for seed in range(3)] == [True, False, False]


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_ctrl_c_says_how_to_go_on_and_loses_nothing_that_finished(protocol_file: Path, tmp_path: Path):
    out = tmp_path / "records"
    arguments = ["run", str(protocol_file), "--methods", "naive", "--seeds", "400", "--out", str(out)]
    command = [sys.executable, "-m", "study", *arguments, "--jobs", "2"]
    study = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )

    def finished(least: int) -> list[Path]:
        wait_until(lambda: len(list(out.glob("*.json"))) >= least or study.poll() is not None, "no run finished")
        return list(out.glob("*.json"))

    try:
        finished(1)
        for worker in psutil.Process(study.pid).children():
            worker.send_signal(signal.SIGINT)  # a terminal sends it to all, but it is the parent that acts on it
        finished(len(finished(1)) + 3)
        assert study.poll() is None, study.stderr.read()
        os.killpg(study.pid, signal.SIGINT)
        said = " ".join(study.communicate(timeout=60)[1].split())
    finally:
        study.kill()
    kept = finished(1)
    assert study.returncode == 130, said
    assert f"Stopped. {len(kept)} of 1200 runs are finished and kept in" in said, said
    assert "the same command goes on from there" in said
    assert "Traceback" not in said, said
    assert all(RunRecord.model_validate_json(path.read_bytes()).finished for path in kept)
    wait_until(lambda: not exists(study.pid), "a process of the study is left")


POOL = """
import os, time
from study.execution import _pool

with _pool(1) as pool:
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_workers_end_with_a_parent_that_is_killed():
    command = [sys.executable, "-c", POOL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as parent:
        assert int(parent.stdout.readline()) != parent.pid
        parent.kill()
    wait_until(lambda: not exists(parent.pid), "a process outlives its parent")


def exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], object], otherwise: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)
