import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from study.campaign import local_pool
from study.campaign.carry_out import carry_out, execute
from study.campaign.one_run import DIED, SILENT, Silence, is_lost
from study.records.run_record import RunRecord, record_of
from study.records.store import ARCHIVE, RunStore, write_archive
from study.run import trainer as training
from study.run.result import RunResult
from study.run.run_environment import RunEnvironment
from study.run.specification import Run
from study.run.trainer import perform
from tests.study.made_up import finished
from tests.study.processes import Command, wait_until

HERE = RunEnvironment(Path())


class Deadly(Run):
    """A run whose process dies, as one does that is killed for its memory."""

    def __reduce__(self):
        return os._exit, (9,)


class Unlucky(Run):
    """A run whose process dies the first time."""

    def __reduce__(self):
        return _die_once, (str(self.protocol), dict(self))


def _die_once(folder: str, settings: dict) -> Run:
    there = Path(folder) / "died"
    if not there.exists():
        there.touch()
        os._exit(9)
    return Run(**settings | {"protocol": "tiny"})


class Silent(Run):
    """A run whose process is stopped."""

    def __reduce__(self):
        return _stop_here, ()


def _stop_here() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def test_a_process_that_dies_takes_neither_the_study_nor_other_runs_with_it(run_of, tmp_path):
    deadly = [Deadly(**dict(run_of(seed=seed))) for seed in (1, 2)]
    store, said = RunStore(tmp_path), []
    found = execute([*deadly, run_of()], store, HERE, jobs=2, say=said.append)
    records = {record.run.seed: record for record in found}
    assert [records[seed].error for seed in (1, 2)] == [DIED, DIED]
    assert sorted(said) == [f"{run}: {DIED}; it is restarted" for run in deadly]
    here = perform(run_of(), HERE)
    assert (records[0].accuracy, records[0].loss) == (here.accuracy, here.loss), "another process, other numbers"
    assert store.read(run_of()) == records[0]
    assert store.read(deadly[0]) is None


def test_a_run_whose_process_died_once_is_performed_all_the_same(run_of, tmp_path):
    unlucky = Unlucky(**dict(run_of()) | {"protocol": str(tmp_path)})
    (record,) = execute([unlucky], RunStore(tmp_path), HERE, jobs=2, say=lambda text: None)
    assert record.finished
    assert (tmp_path / "died").exists()


@pytest.mark.skipif(os.name != "posix", reason="stops a process")
def test_a_process_that_is_silent_for_too_long_is_killed(run_of, tmp_path):
    silent, said = Silent(**dict(run_of())), []
    (record,) = execute([silent], RunStore(tmp_path), HERE, jobs=1, max_silence=0.02, say=said.append)
    assert (record.error, is_lost(record)) == (SILENT, True)
    assert said == [f"{silent}: {SILENT}; it is restarted"]
    assert not multiprocessing.active_children()


def test_a_run_that_reports_experiences_is_not_silent(tmp_path):
    """Whatever the file's date is, as of a machine whose clock is another."""
    report = tmp_path / "progress.json"
    silence = Silence(report, minutes=1)
    assert [silence.is_too_long(now) for now in (1000, 1060, 1061)] == [False, False, True]
    report.touch()
    assert [silence.is_too_long(now) for now in (1062, 1122, 1123)] == [False, False, True]
    os.utime(report, (5, 5))
    assert [silence.is_too_long(now) for now in (1124, 1184, 1185)] == [False, False, True]


@pytest.mark.skipif(os.name != "posix", reason="a process kills itself")
def test_the_last_run_is_performed_in_another_process_too(run_of, tmp_path):
    runs = [run_of(seed=seed) for seed in range(2)]
    store = RunStore(tmp_path)
    list(execute(runs[:1], store, HERE, jobs=1))
    deadly = Deadly(**dict(runs[1]))
    records = carry_out([runs[0], deadly], store, HERE, jobs=2, terminal=Console(quiet=True))
    assert [record.error for record in records] == [None, DIED]


def test_processes_that_are_done_end_by_themselves(run_of, tmp_path, monkeypatch):
    workers: list[local_pool.Worker] = []

    class Watched(local_pool.Worker):
        def __init__(self) -> None:
            super().__init__()
            workers.append(self)

    monkeypatch.setattr(local_pool, "Worker", Watched)
    runs = [run_of(seed=seed) for seed in range(2)]
    assert len(list(execute(runs, RunStore(tmp_path), HERE, jobs=2))) == 2
    assert [worker.process.exitcode for worker in workers] == [0, 0], "W&B's service is killed while it writes"


def test_what_the_folders_archive_has_is_not_repeated(run_of, tmp_path, monkeypatch):
    runs, store = [run_of(seed=seed) for seed in range(2)], RunStore(tmp_path)
    write_archive([record_of(runs[0], finished(runs[0]))], tmp_path / ARCHIVE)
    performed = []
    monkeypatch.setattr(training, "perform", lambda run, environment: performed.append(run) or finished(run))
    records = carry_out(runs, store, HERE, jobs=1, terminal=Console(quiet=True))
    assert [record.run for record in records] == runs
    assert performed == runs[1:]


def test_what_a_kill_left_beside_a_record_goes_with_the_next_call(run_of, tmp_path):
    run, store = run_of(), RunStore(tmp_path)
    environment = RunEnvironment(Path(), store.under_way)
    (record,) = execute([run], store, environment, jobs=1)
    left = [store.under_way / f"{record.id}{suffix}" for suffix in (".json", ".pt")]
    for path in (*left, store.under_way / "0123456789abcdef.pt"):
        path.touch()
    carry_out([run], store, environment, jobs=1, terminal=Console(quiet=True))
    assert [path.name for path in store.under_way.iterdir()] == ["0123456789abcdef.pt"]


def ended(run: Run, environment: RunEnvironment) -> RunResult:
    """Without training: seed 1 fails, seed 2 diverges."""
    return [finished(run), RunResult(outcome="failed", error="y"), RunResult(outcome="diverged", error="y")][run.seed]


def test_a_run_that_does_not_finish_is_recorded_and_the_others_go_on(run_of, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "perform", ended)
    store = RunStore(tmp_path)
    records = list(execute([run_of(seed=seed) for seed in range(3)], store, HERE, jobs=1))
    assert [record.outcome for record in records] == ["finished", "failed", "diverged"]
    assert [store.read(record.run) for record in records] == records


def test_records_of_elsewhere_spare_what_ended_there_but_not_what_failed(run_of, tmp_path, monkeypatch):
    runs = [run_of(seed=seed) for seed in range(3)]
    known = [record_of(run, ended(run, HERE)).model_copy(update={"ended": "then"}) for run in runs]
    monkeypatch.setattr(training, "perform", ended)
    terminal = Console(quiet=True)
    options = {"jobs": 1, "force": False, "cluster": None, "terminal": terminal}
    records = carry_out(runs, RunStore(tmp_path), HERE, known=known, **options)
    assert [record.ended == "then" for record in records] == [True, False, True]


def test_closing_early_stops_and_keeps_what_finished(run_of, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "perform", ended)
    store = RunStore(tmp_path)
    records = execute([run_of(seed=seed) for seed in range(3)], store, HERE, jobs=1)
    next(records)
    records.close()
    assert [store.read(run_of(seed=seed)) is not None for seed in range(3)] == [True, False, False]


def test_the_checkpoint_goes_when_the_record_is_there_and_not_before(run_of, tmp_path, monkeypatch):
    store, run = RunStore(tmp_path), run_of("ewc")
    environment = RunEnvironment(Path(), store.under_way)
    write, left = RunStore.write, []

    def full(self: RunStore, record: RunRecord) -> None:
        left.append(sorted(path.suffix for path in store.under_way.iterdir()))
        raise OSError("No space left on device")

    monkeypatch.setattr(RunStore, "write", full)
    with pytest.raises(OSError, match="No space"):
        list(execute([run], store, environment, jobs=1))
    assert left == [[".json", ".pt"]]
    monkeypatch.setattr(RunStore, "write", write)
    (record,) = execute([run], store, environment, jobs=1)
    assert record.resumed == 1, "only the last experience had to be done again"
    assert record.accuracy == perform(run, HERE).accuracy
    assert list(store.under_way.iterdir()) == []


def test_a_run_that_fails_keeps_its_checkpoint_for_the_next_try(run_of, tmp_path, monkeypatch):
    store, run, learn = RunStore(tmp_path), run_of("ewc"), training.Learner.learn
    environment = RunEnvironment(Path(), store.under_way)

    def out_of_memory(self: training.Learner, index: int) -> None:
        if index == 1:
            raise MemoryError
        learn(self, index)

    with monkeypatch.context() as patched:
        patched.setattr(training.Learner, "learn", out_of_memory)
        (failed,) = execute([run], store, environment, jobs=1)
    assert failed.outcome == "failed"
    (record,) = execute([run], store, environment, jobs=1)
    assert record.resumed == 1
    assert record.accuracy == perform(run, HERE).accuracy


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_ctrl_c_says_how_to_go_on_and_loses_nothing_that_finished(protocol_file: Path, tmp_path: Path):
    out = tmp_path / "records"
    only = ["--methods", "naive", "--seeds", 400, "--jobs", 2, "--wandb", "disabled"]

    def finished(least: int) -> list[Path]:
        wait_until(lambda: len(list(out.glob("*.json"))) >= least or study.ended, "no run finished")
        return list(out.glob("*.json"))

    with Command("run", protocol_file, *only, "--out", out) as study:
        finished(1)
        for worker in study.workers:
            worker.send_signal(signal.SIGINT)  # a terminal sends it to all, but it is the parent that acts on it
        finished(len(finished(1)) + 3)
        assert not study.ended, study.said
        study.workers[0].suspend()  # ends on SIGKILL
        study.interrupt()
        assert study.code() == 130, study.said
        kept = finished(1)
        assert f"Stopped. {len(kept)} of 1200 runs are finished and kept in" in study.said, study.said
        assert "the same command goes on from there" in study.said
        assert "Traceback" not in study.said, study.said
        assert all(RunRecord.model_validate_json(path.read_bytes()).finished for path in kept)
        wait_until(lambda: not study.processes(), "a process of the study is left")


POOL = """
import os, time
from study.campaign.local_pool import Worker

if __name__ == "__main__":
    print(Worker().process.pid, flush=True)
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
