import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from study import execution, training
from study.cli import app
from study.records import Run


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def one_run(protocol_file: Path, tmp_path: Path) -> list[object]:
    """Arguments of one short run, in this process."""
    options = [
        "--methods",
        "ewc",
        "--scenario",
        "class",
        "--seeds",
        1,
        "--jobs",
        1,
        "--out",
        tmp_path / "out",
    ]
    return ["run", protocol_file, *options]


def test_a_study_ends_in_a_table_and_is_not_repeated(one_run, tmp_path, monkeypatch):
    first = call(*one_run)
    assert first.exit_code == 0, first.output
    (path,) = (tmp_path / "out").iterdir()
    record = json.loads(path.read_text())
    assert len(record["accuracy"]) == len(record["accuracy"][0]) == 2
    average = sum(record["accuracy"][-1]) / 2
    (row,) = [line for line in first.stdout.splitlines() if "ewc" in line]
    assert f"{100 * average:.1f}" in row

    def repeated(run: Run) -> None:
        raise AssertionError(f"{run} was performed again")

    monkeypatch.setattr(training, "perform", repeated)
    second = call(*one_run)
    assert second.exit_code == 0, second.output
    assert second.stdout == first.stdout
    assert "1 of 1 runs are finished already" in second.stderr
    assert isinstance(call(*one_run, "--force").exception, AssertionError)


def test_a_failed_run_shows_in_the_exit_status_and_is_tried_again(one_run, monkeypatch):
    def fail(run: Run) -> None:
        raise FloatingPointError("the loss is nan")

    with monkeypatch.context() as broken:
        broken.setattr(training, "accuracy_matrix", fail)
        result = call(*one_run)
    assert result.exit_code == 1
    assert "class-incremental ewc, seed 0: FloatingPointError: the loss is nan" in result.stderr
    assert "1 of 1 runs failed" in result.stderr
    assert call(*one_run).exit_code == 0


def test_every_method_and_scenario_makes_a_row(protocol_file, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "accuracy_matrix", lambda run: [[0.5, 0.5]] * (1 if run.label == "joint" else 2))
    result = call("run", protocol_file, "--seeds", 2, "--jobs", 1, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for method in ("naive", "l2", "ewc", "online_ewc", "mas", "si", "joint"):
        assert sum(f" {method} " in line for line in result.stdout.splitlines()) == 3, result.stdout
    for scenario in ("task", "domain", "class"):
        assert f"{scenario}-incremental" in result.stdout
    assert len(list((tmp_path / "out").iterdir())) == 7 * 3 * 2


def test_an_interrupt_keeps_what_finished_and_says_how_to_go_on(protocol_file, tmp_path, monkeypatch):
    def interrupted_at_seed_1(run: Run) -> list[list[float]]:
        if run.seed == 1:
            raise KeyboardInterrupt
        return [[0.5, 0.5], [0.5, 0.5]]

    arguments = ["run", protocol_file, "--methods", "naive", "--scenario", "task", "--jobs", 1]
    with monkeypatch.context() as interrupted:
        interrupted.setattr(training, "accuracy_matrix", interrupted_at_seed_1)
        result = call(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 130
    assert "Stopped. 1 of 5 runs are finished" in " ".join(result.stderr.split())
    monkeypatch.setattr(training, "accuracy_matrix", lambda run: [[0.5, 0.5], [0.5, 0.5]])
    goes_on = call(*arguments, "--out", tmp_path / "out")
    assert goes_on.exit_code == 0
    assert "1 of 5 runs are finished already" in goes_on.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "digit"], "unknown protocol 'digit'; did you mean 'digits'?"),
        (["run", "nowhere.toml"], "there is no protocol file nowhere.toml"),
        (
            ["run", "digits", "--methods", "ewc,online"],
            "--methods: unknown name 'online'; did you mean 'online_ewc'?",
        ),
        (["run", "digits", "--scenario", "tasks"], "--scenario: unknown name 'tasks'; did you mean 'task'?"),
        (["run", "digits", "--out", "/dev/null/x"], "/dev/null/x"),
        (["tune", "digits", "--methods", "exc"], "--methods: unknown name 'exc'; did you mean 'ewc'?"),
    ],
)
def test_wrong_input_ends_with_status_2_and_one_line(arguments: list[str], said: str):
    result = call(*arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line


@pytest.mark.parametrize("option", ["--seeds=0", "--seeds=1001", "--jobs=0", "--seeds=x"])
def test_numbers_out_of_range_end_with_status_2(option: str, monkeypatch):
    monkeypatch.setattr(execution, "execute", None)
    result = call("run", "digits", option)
    assert result.exit_code == 2
    assert option.split("=")[0] in result.stderr


def test_list_and_show_name_what_there_is():
    assert "digits: Split Digits" in call("list").stdout
    shown = call("show", "digits").stdout
    for part in ("experiences = 5", "learning_rate", "online_ewc", "seeds: 5"):
        assert part in shown
