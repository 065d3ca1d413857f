import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from study.errors import MissingRecords
from study.records import store as stores
from study.records.run_record import RunRecord, record_of
from study.records.store import ARCHIVE, RecordError, RunStore, read_archive, write_archive
from study.run.result import RunResult, Seconds
from study.run.system import git_commit


def record(run, accuracy: list[list[float]] = ((0.5, 0.5), (1 / 3, 1.0)), **more: object) -> RunRecord:
    return record_of(
        run, RunResult(outcome="finished", accuracy=accuracy, loss=accuracy, training_loss=[0.1, 0.2], **more)
    )


def test_a_record_comes_back_as_it_was_written(run_of, tmp_path):
    store = RunStore(tmp_path / "new" / "folder")
    written = record(
        run_of("ewc"), seconds=Seconds(training=[0.1], consolidation=[1 / 3], evaluation=[2.0]), peak_memory=7
    )
    assert store.read(written.run) is None
    store.write(written)
    assert store.read(written.run) == written
    assert store.read_all() == [written]
    assert [path.name for path in store.folder.iterdir()] == [written.run.file_name]


def test_what_did_not_finish_keeps_what_it_had_nan_included(run_of, tmp_path):
    store = RunStore(tmp_path)
    diverged = record_of(
        run_of(),
        RunResult(outcome="diverged", accuracy=[[0.5, 0.0]], loss=[[float("nan"), float("inf")]], error="a\nb: c"),
    )
    store.write(diverged)
    back = store.read(run_of())
    assert not back.finished
    assert back.last_line == "b: c"
    assert str(back.loss) == "[[nan, inf]]"


def test_seconds_add_up():
    assert Seconds(training=[1.0, 2.0], consolidation=[0.5], evaluation=[0.25]).total == 3.75


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_record_whole(run_of, tmp_path, monkeypatch, at):
    store = RunStore(tmp_path)
    old = record(run_of())
    store.write(old)

    def crash(*arguments: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(stores.os, at, crash)
    with pytest.raises(OSError, match="full"):
        store.write(record(run_of(), [[1.0, 1.0], [1.0, 1.0]]))
    assert store.read(old.run) == old
    assert [path.name for path in tmp_path.iterdir()] == [old.run.file_name]


def test_what_is_no_record_is_named(run_of, tmp_path):
    store = RunStore(tmp_path)
    store.write(record(run_of()))
    path = store.path(run_of())
    for broken in ("{", json.dumps(json.loads(path.read_text()) | {"more": 1})):
        path.write_text(broken)
        for read in (lambda: store.read(run_of()), store.read_all):
            with pytest.raises(RecordError, match=path.name):
                read()


def test_a_folder_without_records_is_named(tmp_path):
    with pytest.raises(MissingRecords, match=r"there are no records in .*nowhere"):
        RunStore(tmp_path / "nowhere").read_all()


def test_an_archive_is_the_same_bytes_for_the_same_records_and_reads_like_the_folder(run_of, tmp_path):
    several = [record(run_of(seed=seed)) for seed in range(3)]
    write_archive(several, tmp_path / "a" / ARCHIVE)
    write_archive(several, tmp_path / "b" / ARCHIVE)
    assert (tmp_path / "a" / ARCHIVE).read_bytes() == (tmp_path / "b" / ARCHIVE).read_bytes()
    assert read_archive(tmp_path / "a" / ARCHIVE) == RunStore(tmp_path / "a").read_all() == several


@pytest.mark.parametrize("broken", [b"", b"nothing", "half"])
def test_a_damaged_archive_is_named(run_of, tmp_path, broken):
    path = tmp_path / ARCHIVE
    write_archive([record(run_of(seed=seed)) for seed in range(9)], path)
    path.write_bytes(path.read_bytes()[:-20] if broken == "half" else broken)
    with pytest.raises(RecordError, match=ARCHIVE):
        read_archive(path)


def test_two_studies_do_not_write_to_one_folder(tmp_path):
    other = "import sys; from pathlib import Path; from study.records.store import RunStore\n"
    other += "with RunStore(Path(sys.argv[1])).locked(): print('locked', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", other, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(RecordError, match="another study is writing to"), RunStore(tmp_path).locked():
            pass
        process.kill()
        process.wait()
        with RunStore(tmp_path).locked():  # the lock went with the process
            pass


def test_the_id_depends_on_what_determines_the_result_and_on_nothing_else(run_of, monkeypatch):
    run = run_of("ewc")
    different = [
        run_of("ewc", seed=1),
        run_of("ewc", scenario="task"),
        run_of("online_ewc"),
        run_of("ewc", strength=run.strength * 2),
        run_of("ewc", device="cuda"),
        run_of("ewc", evaluated_on="validation", validation_fraction=0.2),
        run_of("ewc", training=run.training.model_copy(update={"epochs": 2})),
        run_of("ewc", method=run.method.model_copy(update={"fisher": "empirical"})),
    ]
    for what in ("id", "content", "file_name"):
        assert len({getattr(other, what) for other in [run, *different]}) == 1 + len(different)
    assert run_of("ewc", protocol="other", label="mine").id == run.id

    before = run.id, run.content
    monkeypatch.setattr("study.run.specification.versions", lambda: {"torch": "0.0"})
    assert run.id != before[0]
    assert run.content == before[1]


def test_the_commit_is_that_of_the_checkout(tmp_path):
    root = Path(__file__).parents[3]
    found = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip("not in a git checkout")
    git_commit.cache_clear()
    assert git_commit().rstrip("+") == found.stdout.strip()


def test_no_secret_of_the_environment_is_in_a_record(run_of, monkeypatch):
    monkeypatch.setitem(os.environ, "WANDB_API_KEY", "0123456789" * 4)
    assert "0123456789" not in record(run_of()).model_dump_json()


def test_a_record_says_what_it_ran_with(run_of):
    found = record(run_of())
    assert found.versions["torch"] == torch.__version__.partition("+")[0]
    assert found.hardware.gpu is None
    assert found.hardware.processor
