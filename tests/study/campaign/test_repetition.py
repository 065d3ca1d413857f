"""A recorded run is performed again, and what is not the same is said."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from study.campaign.one_run import perform_and_record
from study.campaign.repetition import changed_environment, difference
from study.cli.app import app
from study.records.run_record import RunRecord
from study.records.store import RunStore
from study.run.run_environment import RunEnvironment


@pytest.fixture
def record(run_of) -> RunRecord:
    return perform_and_record(run_of("ewc"), RunEnvironment(Path()))


def changed(record: RunRecord, **changes: object) -> RunRecord:
    return RunRecord.model_validate(record.model_dump() | changes)


def test_the_same_run_gives_the_same_numbers_to_the_last_bit(record):
    again = perform_and_record(record.run, RunEnvironment(Path()))
    assert difference(record, again) == ""
    assert changed_environment(record, again) == []


def test_what_differs_is_said_with_what_may_explain_it(record):
    matrix = [list(row) for row in record.accuracy]
    matrix[1][0] += 0.125 if matrix[1][0] < 0.5 else -0.125
    other = changed(record, accuracy=matrix, versions=record.versions | {"torch": "1.0"}, commit="abc")
    torch = record.versions["torch"]
    reasons = f"torch 1.0, now {torch}; code abc, now {record.commit}"
    assert difference(other, record) == f"other numbers, accuracies by up to 12.50 points ({reasons})"
    failed = changed(record, outcome="failed", error="Traceback\nMemoryError: all of it")
    assert difference(record, failed) == "finished before, failed now: MemoryError: all of it"
    assert difference(failed, record) == "failed before (MemoryError: all of it), finished now"


def test_the_command_repeats_the_runs_of_a_seed_and_its_exit_code_says_numbers_of_it(record, tmp_path):
    store = RunStore(tmp_path)
    store.write(record)
    call = ["repeat", str(tmp_path)]
    result = CliRunner().invoke(app, [*call, "--methods", "ewc"])
    assert (result.exit_code, result.stdout) == (
        0,
        "class-incremental ewc, seed 0: the same numbers to the last bit\n",
    )
    assert re.fullmatch(r"1 of 1: class-incremental ewc, seed 0, which took [\d.]+ (s|ms)\n", result.stderr)
    store.write(changed(record, loss=[[1.0, 1.0], [1.0, 1.0]]))
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 1
    assert result.stdout == "class-incremental ewc, seed 0: other numbers, accuracies by up to 0.00 points\n"
    result = CliRunner().invoke(app, [*call, "--seed", "7"])
    assert (result.exit_code, result.stderr) == (2, f"error: {tmp_path} has no record with seed 7\n")
    result = CliRunner().invoke(app, [*call, "--methods", "mas"])
    assert result.exit_code == 2
    assert "--methods: unknown name 'mas'; allowed: ewc" in result.stderr


def test_a_protocol_stands_for_its_folder_and_foreign_files_are_named(record, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunStore(Path("runs/digits")).write(record)
    Path("runs/digits/notes.json").write_text("{}")
    result = CliRunner().invoke(app, ["repeat", "digits"])
    assert result.exit_code == 0
    assert result.stderr.startswith("left out, no records: notes.json\n1 of 1: ")
    assert result.stdout == "class-incremental ewc, seed 0: the same numbers to the last bit\n"
