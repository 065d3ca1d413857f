import gzip
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import torch

from study.errors import MissingRecords
from study.records import store as stores
from study.records.run_record import RunRecord, checksum_of, record_of
from study.records.store import ARCHIVE, RecordError, RunStore, read_archive, write_archive
from study.run.result import RunResult, Seconds
from study.run.system import git_commit
from tests.study.made_up import finished


def record(run, accuracy: Sequence[Sequence[float]] = ((0.5, 0.5), (1 / 3, 1.0)), **more: object) -> RunRecord:
    return record_of(run, replace(finished(run), accuracy=[list(row) for row in accuracy], **more))


def test_a_record_comes_back_as_it_was_written(run_of, tmp_path):
    store = RunStore(tmp_path / "new" / "folder")
    written = record(
        run_of("ewc"),
        seconds=Seconds(training=[0.1, 0], consolidation=[1 / 3, 5], evaluation=[2.0, 1]),
        peak_memory=7,
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
        RunResult(
            outcome="diverged",
            accuracy=[[0.5, 0.0]],
            loss=[[float("nan"), float("inf")]],
            training_loss=[0.1],
            seconds=Seconds(training=[1.0], consolidation=[0.0], evaluation=[0.0]),
            error="a\nb: c",
        ),
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


def edited(path: Path, keys: str, value: object, *, sealed: bool) -> None:
    """Replace a value in a file of a record; ``sealed``: with a checksum that fits again."""
    content = json.loads(path.read_text())
    *holders, last = (int(key) if key.isdigit() else key for key in keys.split("."))
    reduce(getitem, holders, content)[last] = value
    if sealed:
        content["checksum"] = checksum_of(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        ("accuracy.0.1", 1.5, "accuracy.0.1 = 1.5: input should be less than or equal to 1"),
        ("accuracy.0.1", -0.2, "accuracy.0.1 = -0.2: input should be greater than or equal to 0"),
        ("accuracy.0.1", float("nan"), "accuracy.0.1 = nan: input should be a finite number"),
        ("accuracy.0.1", "0.5", "accuracy.0.1 = '0.5': input should be a valid number"),
        ("accuracy.0.1", True, "accuracy.0.1 = True: input should be a valid number"),
        ("accuracy", [], "accuracy has 0 rows"),
        ("accuracy", [[], []], r"accuracy has 2 rows of \[0\] entries; allowed: 2 rows of 2"),
        ("accuracy.1", [0.5], r"accuracy has 2 rows of \[1, 2\] entries; allowed: 2 rows of 2"),
        ("accuracy", [[0.5] * 3] * 3, r"accuracy has 3 rows of \[3\] entries; allowed: 2 rows of 2"),
        ("accuracy", [[0.5, 0.5]], r"accuracy has 1 rows of \[2\] entries; allowed: 2 rows of 2"),
        ("loss", [[0.5, 0.5]], "loss and accuracy differ in shape"),
        ("loss.0.0", -1, "loss holds a negative number"),
        ("training_loss", [0.5], "training_loss has 1 entries, and accuracy 2 rows"),
        ("importance", [0.5], r"importance has 1 entries, and accuracy 2 rows; allowed: 0 or 2"),
        ("importance", [0.5, float("inf")], "importance.1 = inf: input should be a finite number"),
        ("seconds.evaluation", [], "seconds.evaluation has 0 entries"),
        ("seconds.training.0", -1, "seconds.training.0 = -1: input should be greater than or equal to 0"),
        ("seconds.training.0", float("inf"), "seconds.training.0 = inf: input should be a finite number"),
        ("peak_memory", -1, "peak_memory = -1: input should be greater"),
        ("resumed", 1.5, "resumed = 1.5: input should be a valid integer"),
        ("outcome", "failed", "an error goes with a run that did not finish"),
        ("outcome", "won", "outcome = 'won': input should be 'finished'"),
        ("ended", "yesterday", "Invalid isoformat string: 'yesterday'"),
        ("ended", "2026-03-01T10:00:00", "allowed: a time in UTC"),
        ("run.strength", 1e308, "run.strength = 1e.308: allowed: 0, or from 1e-18"),
        ("run.seed", 5, r"its settings or versions were changed"),
        ("run.strength", 5.0, "its settings or versions were changed"),
        ("run.scenario", "task", "its settings or versions were changed"),
        ("run.training.epochs", 9, "its settings or versions were changed"),
        ("run.benchmark.experiences", 5, "accuracy has 2 rows"),
        ("versions.torch", "1.0", "its settings or versions were changed"),
        ("run.label", "mas", "it holds class-incremental mas, seed 0, whose file is class-mas-seed0-"),
    ],
)
def test_a_record_that_cannot_be_is_refused_even_with_a_checksum(run_of, tmp_path, keys, value, said):
    store = RunStore(tmp_path)
    store.write(record(run_of("ewc")))
    edited(store.path(run_of("ewc")), keys, value, sealed=True)
    with pytest.raises(RecordError, match=rf"seed0-.*\.json is no record of this run: .*{said}.*; delete it to run it"):
        store.read(run_of("ewc"))
    assert store.contents().records == []


@pytest.mark.parametrize(("keys", "value"), [("accuracy.1.0", 0.97), ("seconds.training.0", 2.0), ("commit", None)])
def test_a_plausible_edit_does_not_fit_the_checksum(run_of, tmp_path, keys, value):
    store = RunStore(tmp_path)
    store.write(record(run_of("ewc")))
    edited(store.path(run_of("ewc")), keys, value, sealed=False)
    with pytest.raises(RecordError, match="it was changed after it was written"):
        store.read(run_of("ewc"))


def test_a_file_of_its_own_needs_a_checksum(run_of, tmp_path):
    store = RunStore(tmp_path)
    store.write(record(run_of()))
    edited(store.path(run_of()), "checksum", None, sealed=False)
    with pytest.raises(RecordError, match="it has no checksum"):
        store.read(run_of())


def test_a_copy_is_not_another_run_whatever_it_is_called(run_of, tmp_path):
    store = RunStore(tmp_path)
    store.write(record(run_of()))
    for name in (run_of(seed=1).file_name, "copy.json"):
        (tmp_path / name).write_bytes(store.path(run_of()).read_bytes())
    there = store.contents()
    assert [found.run.seed for found in there.records] == [0]
    assert [path.name for path in there.damaged] == [run_of(seed=1).file_name]
    assert [path.name for path in there.foreign] == ["copy.json"]
    with pytest.raises(RecordError, match=r"seed1-.* it holds class-incremental naive, seed 0, whose file is"):
        store.read(run_of(seed=1))


def test_archives_of_earlier_versions_have_no_checksums_and_are_written_again_without(run_of, tmp_path):
    path, again = tmp_path / ARCHIVE, tmp_path / "again.gz"
    old = [record(run_of(seed=seed)).model_copy(update={"checksum": None}) for seed in range(2)]
    write_archive(old, path)
    assert read_archive(path) == old
    write_archive(read_archive(path), again)
    assert again.read_bytes() == path.read_bytes()
    lines = gzip.decompress(path.read_bytes())
    assert b"checksum" not in lines
    assert b'importance":[' not in lines, "it came later"
    path.write_bytes(gzip.compress(lines.replace(b'"seed":1', b'"seed":7')))
    with pytest.raises(RecordError, match=rf"{ARCHIVE}, line 2 is no record: its settings or versions were changed"):
        read_archive(path)


def test_an_archive_holds_a_run_once(run_of, tmp_path):
    write_archive([record(run_of(seed=seed)) for seed in (0, 1, 0)], tmp_path / ARCHIVE)
    with pytest.raises(RecordError, match="lines 1 and 3 are of one run: class-incremental naive, seed 0"):
        read_archive(tmp_path / ARCHIVE)


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


@pytest.mark.parametrize("kind", ["folder", "link to nowhere", "pipe"])
@pytest.mark.parametrize("name", ["notes.json", "a record", ARCHIVE])
@pytest.mark.skipif(os.name != "posix", reason="makes links and pipes")
def test_what_is_no_file_is_named_and_nothing_waits_for_it(run_of, tmp_path, kind, name):
    store, run = RunStore(tmp_path), run_of()
    store.write(record(run_of(seed=1)))
    path = tmp_path / (run.file_name if name == "a record" else name)
    make = {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link to nowhere": lambda: path.symlink_to("x")}
    make[kind]()
    if name == "notes.json":
        assert store.contents().foreign == [path]
    elif name == ARCHIVE:
        with pytest.raises(RecordError, match=ARCHIVE):
            store.contents()
    else:
        assert list(store.contents().damaged) == [path]
        with pytest.raises(RecordError, match="is no file; move it elsewhere"):
            store.read(run)


def test_a_failure_hides_no_result_of_the_archive(run_of, tmp_path):
    store, run = RunStore(tmp_path), run_of()
    write_archive([record(run)], tmp_path / ARCHIVE)
    store.write(record_of(run, RunResult(outcome="failed", error="x")))
    assert [each.outcome for each in store.read_all()] == ["finished"]
    store.write(record(run, accuracy=((1.0, 1.0), (1.0, 1.0))))
    assert [each.accuracy[0][0] for each in store.read_all()] == [1.0]


def test_only_what_a_kill_left_is_deleted(tmp_path):
    store = RunStore(tmp_path)
    store.under_way.mkdir()
    (tmp_path / "cache.json.1.tmp").mkdir()
    names = ("thesis.tmp", "a.json.12.tmp", "request.toml.7.tmp", "under-way/b.pt.3.tmp", "under-way/b.tmp")
    for name in names:
        (tmp_path / name).touch()
    with store.locked():
        assert [name for name in names if (tmp_path / name).exists()] == ["thesis.tmp", "under-way/b.tmp"]
        (tmp_path / "a.json.13.tmp").touch()  # by a worker that is killed meanwhile
    assert not (tmp_path / "a.json.13.tmp").exists()


def test_nothing_that_is_put_aside_is_overwritten(run_of, tmp_path):
    store, run = RunStore(tmp_path), run_of()
    for accuracy in (0.25, 0.5, 0.75):
        store.write(record(run, accuracy=((accuracy, accuracy), (accuracy, accuracy))))
        store.put_aside([run])
    kept = [json.loads(path.read_bytes())["accuracy"][0][0] for path in (tmp_path / "superseded").iterdir()]
    assert sorted(kept) == [0.25, 0.5, 0.75]


def test_an_archive_is_not_put_aside(run_of, tmp_path):
    write_archive([record(run_of())], tmp_path / ARCHIVE)
    RunStore(tmp_path).put_aside([run_of(seed=1)])
    with pytest.raises(RecordError, match="has runs that --force repeats; move it elsewhere"):
        RunStore(tmp_path).put_aside([run_of(seed=1), run_of()])


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
