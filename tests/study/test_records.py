import json

import pytest

from study import records
from study.records import RecordError, RunRecord, RunStore


def test_a_record_comes_back_as_it_was_written(run_of, tmp_path):
    store = RunStore(tmp_path / "new" / "folder")
    record = RunRecord.of(run_of("ewc"), accuracy=[[1 / 3, 0.1], [2 / 3, 1.0]], seconds=1.5)
    assert store.read(record.run) is None
    store.write(record)
    assert store.read(record.run) == record
    assert [path.name for path in store.folder.iterdir()] == [record.run.file_name]


def test_a_run_that_failed_is_not_finished(run_of):
    assert not RunRecord.of(run_of(), error="Traceback").finished


def test_a_crash_while_writing_leaves_the_old_record_whole(run_of, tmp_path, monkeypatch):
    store = RunStore(tmp_path)
    old = RunRecord.of(run_of(), accuracy=[[0.5, 0.5]])
    store.write(old)

    def crash(descriptor: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(records.os, "fsync", crash)
    with pytest.raises(OSError, match="full"):
        store.write(RunRecord.of(run_of(), accuracy=[[1.0, 1.0]]))
    assert store.read(old.run) == old
    assert [path.name for path in tmp_path.iterdir()] == [old.run.file_name]


def test_what_is_no_record_is_named(run_of, tmp_path):
    store = RunStore(tmp_path)
    store.write(RunRecord.of(run_of(), accuracy=[[0.5]]))
    path = store.path(run_of())
    for broken in ("{", json.dumps(json.loads(path.read_text()) | {"more": 1})):
        path.write_text(broken)
        with pytest.raises(RecordError, match=path.name):
            store.read(run_of())


def test_the_id_depends_on_what_determines_the_result_and_on_nothing_else(run_of, monkeypatch):
    run = run_of("ewc")
    different = [
        run_of("ewc", seed=1),
        run_of("ewc", scenario="task"),
        run_of("online_ewc"),
        run_of("ewc", strength=run.strength * 2),
        run_of("ewc", evaluated_on="validation", validation_fraction=0.2),
        run_of("ewc", training=run.training.model_copy(update={"epochs": 2})),
        run_of("ewc", method=run.method.model_copy(update={"fisher": "empirical"})),
    ]
    ids = [run.id, *(other.id for other in different)]
    assert len(set(ids)) == len(ids)
    assert run_of("ewc", protocol="other", label="mine").id == run.id

    before = run.id
    monkeypatch.setattr(records, "versions", lambda: {"torch": "0.0"})
    assert run.id != before
