import json
import shlex
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from study.cli.app import app
from study.records.request import read_request
from study.records.run_record import RunRecord
from study.records.store import RunStore
from study.run import trainer as training
from study.run.result import RunResult
from study.run.run_environment import RunEnvironment
from study.run.specification import Run
from study.run.trainer import Learner
from tests.study.made_up import finished


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def never(run: Run, environment: RunEnvironment) -> RunResult:
    raise AssertionError(f"{run} was performed")


@pytest.fixture
def one_run(protocol_file: Path, tmp_path: Path) -> list[object]:
    """Arguments of one short run, in this process."""
    only = ["--methods", "ewc", "--scenario", "class", "--seeds", 1, "--jobs", 1, "--wandb", "disabled"]
    return ["run", protocol_file, *only, "--out", tmp_path / "out"]


def test_a_study_ends_in_a_table_and_is_not_repeated(one_run, tmp_path, monkeypatch):
    first = call(*one_run)
    assert first.exit_code == 0, first.output
    (path,) = (tmp_path / "out").glob("*.json")
    record = json.loads(path.read_text())
    assert len(record["accuracy"]) == len(record["accuracy"][0]) == 2
    average = sum(record["accuracy"][-1]) / 2
    (row,) = [line for line in first.stdout.splitlines() if "ewc" in line]
    assert f"{100 * average:.2f}" in row

    monkeypatch.setattr(training, "perform", never)
    second = call(*one_run)
    assert second.exit_code == 0, second.output
    assert second.stdout == first.stdout
    assert "1 of 1 runs have ended already" in second.stderr
    assert "runs done" in first.stderr
    assert "runs done" not in second.stderr
    assert isinstance(call(*one_run, "--force").exception, AssertionError)


def test_force_starts_from_the_beginning_and_not_from_a_checkpoint(one_run, tmp_path, monkeypatch):
    learn = Learner.learn

    def interrupted_in_the_second(self: Learner, index: int) -> None:
        if index == 1:
            raise KeyboardInterrupt
        learn(self, index)

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "learn", interrupted_in_the_second)
        assert call(*one_run).exit_code == 130
    assert len(list((tmp_path / "out" / "under-way").glob("*.pt"))) == 1
    assert call(*one_run, "--force").exit_code == 0
    (record,) = RunStore(tmp_path / "out").read_all()
    assert record.resumed == 0


def test_force_puts_the_old_records_aside_at_once_so_that_the_rest_follows_without_it(one_run, tmp_path, monkeypatch):
    three = [*one_run, "--seeds", 3]
    monkeypatch.setattr(training, "perform", finished)
    assert call(*three).exit_code == 0

    def better_until_seed_1(run: Run, environment: RunEnvironment) -> RunResult:
        if run.seed == 1:
            raise KeyboardInterrupt
        return finished(run, accuracy=0.75)

    monkeypatch.setattr(training, "perform", better_until_seed_1)
    assert call(*three, "--force").exit_code == 130
    assert len(list((tmp_path / "out" / "superseded").glob("*.json"))) == 3
    monkeypatch.setattr(training, "perform", lambda run, environment: finished(run, accuracy=0.75))
    goes_on = call(*three)
    said = [line for line in goes_on.stderr.splitlines() if " of " in line]
    assert said[0].startswith("1 of 3 runs have ended already")
    assert [line[: len("1 of 2 runs done:")] for line in said[1:]] == ["1 of 2 runs done:", "2 of 2 runs done:"]
    assert {record.accuracy[-1][0] for record in RunStore(tmp_path / "out").read_all()} == {0.75}


def test_two_names_for_equal_settings_are_performed_once_and_both_reported(one_run, tmp_path, monkeypatch):
    performed = []

    def once(run: Run, environment: RunEnvironment) -> RunResult:
        performed.append(run.seed)
        return finished(run)

    monkeypatch.setattr(training, "perform", once)
    twins = ["--set", 'methods.twin={kind = "naive"}', "--methods", "naive,twin", "--seeds", 2]
    result = call(*one_run, *twins)
    assert result.exit_code == 0, result.output
    assert performed == [0, 1]
    for name in ("naive", "twin"):
        (row,) = [line.replace("|", " ").split() for line in result.stdout.splitlines() if f" {name} " in line]
        assert row[:3] == [name, "–", "2"], row
    assert "4 of 4 runs have ended already" in call(*one_run, *twins).stderr
    assert performed == [0, 1]


def test_status_tells_of_the_first_run_before_it_has_ended(protocol_file, tmp_path):
    begun = tmp_path / "out" / "under-way" / "x.json"
    begun.parent.mkdir(parents=True)
    begun.write_text(json.dumps({"run": "class-incremental [si], seed 9", "experiences": 0, "of": 5, "accuracy": None}))
    result = call("status", protocol_file, "--records", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "class-incremental [si], seed 9" in result.stdout


def test_status_does_not_count_runs_of_other_settings(one_run, protocol_file, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "perform", finished)
    call(*one_run, "--seeds", 2)
    call(*one_run, "--set", "training.epochs=3")
    shown = call("status", protocol_file, "--records", tmp_path / "out", "--set", "training.epochs=1").stdout
    assert "| class | ewc | 3 | 2 | – | – |" in shown
    assert "1 records of other settings" in shown


def test_status_counts_what_was_asked_and_knows_its_settings(one_run, protocol_file, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "perform", finished)
    assert call(*one_run, "--seeds", 2, "--set", "training.epochs=3").exit_code == 0
    assert call(*one_run, "--methods", "si", "--scenario", "task", "--set", "training.epochs=3").exit_code == 0
    for path in (tmp_path / "out").glob("class-ewc-seed1-*.json"):
        path.unlink()
    result = call("status", protocol_file, "--records", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "2 of 3 runs have ended" in result.stdout
    rows = [line for line in result.stdout.splitlines() if line.startswith(("| task", "| domain", "| class"))]
    assert rows == ["| task | si | 1 | 1 | – | – |", "| class | ewc | 2 | 1 | – | – |"]
    assert "settings of the last run in" in result.stderr
    assert "--set training.epochs=3" in result.stderr


def test_status_counts_no_more_than_was_asked_for(one_run, protocol_file, tmp_path, monkeypatch):
    """Not of more seeds, and not of methods that are no longer in the protocol."""
    monkeypatch.setattr(training, "perform", finished)
    assert call(*one_run, "--seeds", 3).exit_code == 0
    request = tmp_path / "out" / "request.toml"
    request.write_text(request.read_text().replace("ewc = 3", "ewc = 2\ngone = 5"))
    shown = call("status", protocol_file, "--records", tmp_path / "out").stdout
    assert "2 of 2 runs have ended" in shown
    assert "1 records of other settings are not counted" in shown


def test_a_search_and_runs_in_one_folder_are_not_one_request(one_run, protocol_file, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "perform", finished)
    assert call(*one_run).exit_code == 0
    search = ["--methods", "ewc", "--scenario", "task", "--jobs", 1, "--out", tmp_path / "out"]
    assert call("tune", protocol_file, *search).exit_code == 0
    request = read_request(tmp_path / "out")
    assert (request.evaluated_on, list(request.runs)) == ("validation", ["task"])


def test_status_counts_the_runs_of_a_search(protocol_file, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "perform", finished)
    some = ["--methods", "ewc", "--scenario", "class", "--jobs", 1, "--out", tmp_path / "search"]
    assert call("tune", protocol_file, *some).exit_code == 0
    runs = len(RunStore(tmp_path / "search").read_all())
    result = call("status", protocol_file, "--records", tmp_path / "search")
    assert f"{runs} of {runs} runs have ended" in result.stdout


def test_run_says_that_it_starts_and_at_the_end_where_everything_is(one_run, protocol_file, tmp_path, monkeypatch):
    def tracked(run: Run, environment: RunEnvironment) -> RunResult:
        (environment.tracking.folder / "wandb" / "offline-run-1").mkdir(parents=True)
        return finished(run)

    monkeypatch.setattr(training, "perform", tracked)
    said = call(*one_run, "--wandb", "offline", "--set", "training.epochs=3").stderr.splitlines()
    out = tmp_path / "out"
    assert said[0] == "runs to do: 1, 1 at a time; workers start, which takes some seconds"
    assert said[-3] == f"records: {out}"
    assert said[-2] == f"W&B: {out}/wandb; to send them: wandb sync {out}/wandb/offline-run-*"
    next_command = shlex.split(said[-1])
    assert next_command[:2] == ["next:", "clreg-study"]
    written = call(*next_command[2:])
    assert written.exit_code == 0, written.output
    assert "--set training.epochs=3" in written.stderr
    assert (out / "report" / "index.html").is_file()


def test_a_damaged_request_is_named(one_run, protocol_file, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "perform", finished)
    call(*one_run)
    (tmp_path / "out" / "request.toml").write_text("seeds = 3")
    result = call("status", protocol_file, "--records", tmp_path / "out")
    assert (result.exit_code, "request.toml is not what" in result.stderr) == (2, True), result.output


def test_damaged_progress_is_named_and_the_rest_is_shown(one_run, protocol_file, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "perform", finished)
    assert call(*one_run).exit_code == 0
    under_way = tmp_path / "out" / "under-way"
    under_way.mkdir()
    whole = {"run": "class-incremental si, seed 9", "experiences": 1, "of": 5, "accuracy": 0.25}
    (under_way / "whole.json").write_text(json.dumps(whole))
    broken = [[], {}, whole | {"accuracy": 1.5}, whole | {"accuracy": None}, whole | {"of": 0}, whole | {"run": None}]
    for index, content in enumerate(broken):
        (under_way / f"broken-{index}.json").write_text(json.dumps(content))
    result = call("status", protocol_file, "--records", tmp_path / "out")
    assert result.exit_code == 0, result.output
    (line,) = [
        line for line in result.stdout.splitlines() if line.startswith("damaged progress files, ignored (delete")
    ]
    assert all(f"broken-{index}.json" in line for index in range(len(broken)))
    assert "whole.json" not in line
    assert "si, seed 9" in result.stdout


def test_brackets_are_text(one_run, monkeypatch):
    def fail(run: Run, environment: RunEnvironment) -> RunResult:
        return RunResult(outcome="failed", error="RuntimeError: [enforce fail at [/opt/x] here]")

    monkeypatch.setattr(training, "perform", fail)
    assert "[enforce fail at [/opt/x] here]" in " ".join(call(*one_run).stderr.split())
    assert "Split [/digits] [draft]" in call("show", "digits", "--set", 'title="Split [/digits] [draft]"').stdout


def test_a_failed_run_shows_in_the_exit_status_and_is_tried_again_a_diverged_one_is_not(one_run, monkeypatch):
    def fail(run: Run, environment: RunEnvironment) -> RunResult:
        return RunResult(outcome="failed", error="Traceback\nRuntimeError: out of luck")

    def diverge(run: Run, environment: RunEnvironment) -> RunResult:
        return RunResult(outcome="diverged", error="Traceback\nFloatingPointError: the loss is nan")

    monkeypatch.setattr(training, "perform", fail)
    result = call(*one_run)
    assert result.exit_code == 1
    assert "failed: class-incremental ewc, seed 0: RuntimeError: out of luck" in " ".join(result.stderr.split())
    assert "1 of 1 runs did not finish (1 failed); their records say why; the same command tries" in result.stderr
    monkeypatch.setattr(training, "perform", diverge)
    assert "1 of 1 runs did not finish (1 diverged); their records say why\n" in call(*one_run).stderr
    monkeypatch.setattr(training, "perform", never)
    again = call(*one_run)
    assert again.exit_code == 1
    assert "1 of 1 runs have ended already" in again.stderr, again.output


def test_every_method_and_scenario_makes_a_row(protocol, protocol_file, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "perform", finished)
    arguments = ["--seeds", 2, "--jobs", 1, "--wandb", "disabled", "--out", tmp_path / "out"]
    result = call("run", protocol_file, *arguments)
    assert result.exit_code == 0, result.output
    for scenario in ("task", "domain", "class"):
        assert f"{scenario}-incremental" in result.stdout
    assert len(list((tmp_path / "out").glob("*.json"))) == len(protocol.methods) * 3 * 2


def test_an_interrupt_keeps_what_finished_and_says_how_to_go_on(protocol_file, tmp_path, monkeypatch):
    def interrupted_at_seed_1(run: Run, environment: RunEnvironment) -> RunResult:
        if run.seed == 1:
            raise KeyboardInterrupt
        return finished(run)

    arguments = ["run", protocol_file, "--methods", "naive", "--scenario", "task", "--jobs", 1, "--wandb", "disabled"]
    with monkeypatch.context() as interrupted:
        interrupted.setattr(training, "perform", interrupted_at_seed_1)
        result = call(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 130
    assert "Stopped. 1 of 3 runs are finished" in " ".join(result.stderr.split())
    monkeypatch.setattr(training, "perform", finished)
    goes_on = call(*arguments, "--out", tmp_path / "out")
    assert goes_on.exit_code == 0
    assert "1 of 3 runs have ended already" in goes_on.stderr


def test_set_replaces_a_setting_and_its_runs_are_others(one_run, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "perform", finished)
    assert call(*one_run).exit_code == 0
    assert call(*one_run, "--set", "training.epochs=3", "--set", "strength.ewc.class=7").exit_code == 0
    records = RunStore(tmp_path / "out").read_all()
    assert sorted((r.run.training.epochs, r.run.strength) for r in records) == [(1, 1e7), (3, 7.0)]


def test_the_progress_shows_the_accuracy_of_what_is_running(one_run, tmp_path, monkeypatch):
    learn, reported = Learner.learn, threading.Event()

    def slowly(self: Learner, index: int) -> None:
        learn(self, index)
        if index == 0:
            self.checkpoint.report(1, 2, 0.875)
            time.sleep(1.5)
        reported.set()

    monkeypatch.setattr(Learner, "learn", slowly)
    result = CliRunner().invoke(app, list(map(str, one_run)), env={"FORCE_COLOR": "1", "COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "experience 1 of 2" in result.stderr
    assert "87.5% so far" in result.stderr


def test_status_counts_what_ended_and_shows_what_has_begun(one_run, protocol_file, tmp_path, monkeypatch):
    def one_of_each(run: Run, environment: RunEnvironment) -> RunResult:
        if run.seed == 0:
            return finished(run)
        return RunResult(outcome="diverged" if run.seed == 1 else "failed", error="why")

    monkeypatch.setattr(training, "perform", one_of_each)
    call(*one_run, "--seeds", 3)
    begun = tmp_path / "out" / "under-way" / "x.json"
    begun.parent.mkdir()
    begun.write_text(json.dumps({"run": "class-incremental si, seed 9", "experiences": 1, "of": 5, "accuracy": 0.25}))
    result = call("status", protocol_file, "--records", tmp_path / "out")
    assert result.exit_code == 0, result.output
    (row,) = [
        line.replace("|", " ").split() for line in result.stdout.splitlines() if "class" in line and " ewc " in line
    ]
    assert row == ["class", "ewc", "3", "1", "1", "1"]
    assert "si, seed 9" in result.stdout
    assert "25.0% so far" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "digit"], "unknown protocol 'digit'; did you mean 'digits'? allowed: those of `clreg-study list`"),
        (["show", "here"], "unknown protocol 'here'; did you mean 'here.toml'?"),
        (
            ["show", "vandeven2018-split-mnist-"],
            "unknown protocol 'vandeven2018-split-mnist-'; names that begin with it: vandeven2018-split-mnist-class, "
            "vandeven2018-split-mnist-domain, vandeven2018-split-mnist-task",
        ),
        (["run", "nowhere.toml"], "there is no protocol file nowhere.toml"),
        (
            ["run", "digits", "--methods", "ewc,online"],
            "--methods: unknown name 'online'; did you mean 'online_ewc'?",
        ),
        (["run", "digits", "--scenario", "tasks"], "--scenario: unknown name 'tasks'; did you mean 'task'?"),
        (["run", "digits", "--out", "/dev/null/x"], "/dev/null/x"),
        (["tune", "digits", "--methods", "exc"], "--methods: unknown name 'exc'; did you mean 'ewc'?"),
        (["run", "digits", "--set", "training.epoch=3"], "[training]: unknown key 'epoch'; did you mean 'epochs'?"),
        (["run", "digits", "--set", "training.epochs"], "--set training.epochs: allowed is KEY=VALUE"),
        (["run", "digits", "--device", "cuda"], "--device cuda: this machine has no GPU"),
        (["run", "hsu2018-split-mnist-task", "--data-root", "nowhere"], "--data-root: nowhere is not there"),
        (["run", "digits", "--ray", "localhost:1"], "no Ray cluster at 'localhost:1'"),
        (
            ["status", "digits", "--records", "no where"],
            "there are no records in no where; next: clreg-study run digits --out 'no where'",
        ),
        (
            ["run", "digits", "--set", "strength.si.task=tuned", "--tuning", "nowhere"],
            "no records of a search in nowhere; "
            "next: clreg-study tune digits --out nowhere --set strength.si.task=tuned",
        ),
        (
            ["run", "digits", "--set", "strength.si.task=tuned"],
            "chosen it yet (--set strength.si.task=100 would give it a value); "
            "next: clreg-study tune digits --set strength.si.task=tuned",
        ),
        (["report", "digits", "--records", "nowhere"], "there are no records in nowhere"),
        (["compare", "nowhere", "digits"], "there are no records in"),
    ],
)
def test_wrong_input_ends_with_status_2_and_one_line(arguments: list[str], said: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.toml").write_text("")
    monkeypatch.setattr(training, "perform", never)
    result = call(*arguments)
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("loading ")]
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option", ["--seeds=0", "--seeds=1.5", "--jobs=0", "--seeds=x"])
def test_numbers_out_of_range_end_with_status_2(option: str, monkeypatch):
    monkeypatch.setattr(training, "perform", never)
    result = call("run", "digits", option)
    assert result.exit_code == 2
    assert option.split("=")[0] in result.stderr


def test_runs_never_use_a_seed_of_the_search(monkeypatch):
    monkeypatch.setattr(training, "perform", never)
    result = call("run", "digits", "--seeds", 1001)
    assert result.exit_code == 2
    assert "tuning.seeds: 1000 would be of the runs too, which use 0 to 1000" in result.stderr


def test_a_record_damaged_by_hand_is_named_and_nothing_is_lost(one_run, protocol_file, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "perform", finished)
    assert call(*one_run, "--seeds", 2).exit_code == 0
    damaged, whole = sorted((tmp_path / "out").glob("*.json"))
    damaged.write_text(damaged.read_text()[:-40])
    monkeypatch.setattr(training, "perform", never)
    for command in (one_run, ["report", protocol_file, "--records", tmp_path / "out"]):
        result = call(*command)
        assert result.exit_code == 2
        assert damaged.name in result.stderr
        assert "delete it to run it again" in result.stderr
    assert whole.exists()
    result = call("status", protocol_file, "--records", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"left out, damaged or of another version (delete them to run them again): {damaged.name}" in result.stdout
    (row,) = [
        line.replace("|", " ").split() for line in result.stdout.splitlines() if "class" in line and " ewc " in line
    ]
    assert row == ["class", "ewc", "2", "1", "–", "–"]


def test_a_json_file_of_others_among_the_records_is_named_and_nothing_stops(
    one_run, protocol_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "perform", finished)
    assert call(*one_run, "--seeds", 2).exit_code == 0
    (tmp_path / "out" / "notes.json").write_text('{"mine": 1}')
    (tmp_path / "out" / "half.json").write_text("{")
    shown = call("status", protocol_file, "--records", tmp_path / "out")
    assert (shown.exit_code, "left out, no records: half.json, notes.json" in shown.stdout) == (0, True), shown.output
    written = call("report", protocol_file, "--records", tmp_path / "out")
    assert (written.exit_code, "left out, no records: half.json, notes.json" in written.stderr) == (0, True)
    assert call(*one_run, "--seeds", 2).exit_code == 0
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.json").write_text("{}")
    nothing = call("status", protocol_file, "--records", tmp_path / "empty")
    assert (nothing.exit_code, "there are no records in" in nothing.stderr) == (2, True)


def test_two_studies_at_once_are_one_too_many(one_run, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "perform", never)
    with RunStore(tmp_path / "out").locked():
        result = call(*one_run)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: another study is writing to")


def test_a_folder_that_becomes_full_ends_the_study_with_one_message(one_run, tmp_path, monkeypatch):
    def full(self: RunStore, record: RunRecord) -> None:
        raise OSError(28, "No space left on device", str(self.folder))

    with monkeypatch.context() as patched:
        patched.setattr(RunStore, "write", full)
        result = call(*one_run)
    assert result.exit_code == 2
    assert "error: [Errno 28] No space left on device" in result.stderr
    assert "Traceback" not in result.output
    assert call(*one_run).exit_code == 0


def test_online_tracking_without_a_key_ends_before_any_training(one_run, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr(training, "perform", never)
    result = call(*one_run, "--wandb", "online")
    assert result.exit_code == 2, result.output
    assert "wandb login" in result.stderr


def test_list_and_show_name_what_there_is():
    assert "digits: Split Digits" in call("list").stdout
    shown = call("show", "digits").stdout
    for part in ("experiences = 5", "learning_rate", "online_ewc", "seeds: 12"):
        assert part in shown
