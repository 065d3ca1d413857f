"""What commands make of records that are there: a report, a comparison, and runs that need not be repeated."""

import shutil
from collections.abc import Callable

from study.run import trainer as training
from study.run.result import RunResult
from study.run.run_environment import RunEnvironment
from study.run.specification import Run
from tests.study.cli.test_app import call, finished, never


def test_a_report_is_written_from_the_records_and_again_from_its_own_archive(protocol_file, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "perform", finished)
    out = tmp_path / "out"
    some = ["--seeds", 2, "--methods", "naive,ewc,joint", "--jobs", 1, "--wandb", "disabled"]
    assert call("run", protocol_file, *some, "--out", out).exit_code == 0
    result = call("report", protocol_file, "--records", out)
    assert result.exit_code == 0, result.output
    first = {path.relative_to(out / "report"): path.read_bytes() for path in (out / "report").rglob("*.*")}
    assert {"README.md", "index.html", "results.csv", "records.jsonl.gz"} <= set(map(str, first))
    copied = tmp_path / "copied"
    shutil.copytree(out / "report", copied)
    assert call("report", protocol_file, "--records", copied, "--out", copied).exit_code == 0
    assert {path.relative_to(copied): path.read_bytes() for path in copied.rglob("*.*")} == first
    assert "left out" not in result.output
    other = call("report", protocol_file, "--records", out, "--out", tmp_path / "other", "--set", "strength.ewc.task=7")
    assert other.exit_code == 0, other.output
    assert "2 records left out: 2 other settings than the protocol's." in other.stdout


def accuracies_by_method(better: str) -> Callable[[Run, RunEnvironment], RunResult]:
    def perform(run: Run, environment: RunEnvironment) -> RunResult:
        return finished(run, accuracy=0.5 + 0.01 * run.seed + (0.2 if run.label == better else 0.0))

    return perform


def test_compare_tests_method_against_method_and_study_against_study(protocol_file, tmp_path, monkeypatch):
    some = ["--methods", "si,ewc", "--scenario", "task", "--seeds", 8, "--jobs", 1, "--wandb", "disabled"]
    for better in ("si", "ewc"):
        monkeypatch.setattr(training, "perform", accuracies_by_method(better))
        assert call("run", protocol_file, *some, "--out", tmp_path / better).exit_code == 0
    (tmp_path / "si" / "notes.json").write_text("{}")
    methods = call("compare", f"{tmp_path / 'si'}:si", f"{tmp_path / 'si'}:ewc")
    assert methods.exit_code == 0, methods.output
    assert "left out, no records: notes.json" in methods.stderr
    assert "+20.00" in methods.stdout
    assert "0.008*" in methods.stdout, "the exact p of 8 pairs that all differ one way is 2/2^8"
    studies = call("compare", tmp_path / "si", tmp_path / "ewc")
    assert studies.exit_code == 0, studies.output
    assert "+20.00" in studies.stdout
    assert "−20.00" in studies.stdout
    unknown = call("compare", f"{tmp_path / 'si'}:sy", f"{tmp_path / 'si'}:ewc")
    assert unknown.exit_code == 2
    assert "did you mean 'si'?" in unknown.stderr


def test_runs_of_another_folder_or_report_are_not_repeated(protocol_file, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "perform", finished)
    common = [protocol_file, "--methods", "naive,joint", "--jobs", 1, "--wandb", "disabled"]
    assert call("run", *common, "--seeds", 2, "--out", tmp_path / "first").exit_code == 0
    assert call("report", protocol_file, "--records", tmp_path / "first").exit_code == 0
    performed = []
    monkeypatch.setattr(training, "perform", lambda run, environment: performed.append(run) or finished(run))
    report = tmp_path / "first" / "report"
    again = call("run", *common, "--seeds", 3, "--out", tmp_path / "second", "--reuse", report)
    assert again.exit_code == 0, again.output
    assert {run.seed for run in performed} == {2}
    scenarios = 3
    assert len(performed) == 2 * scenarios
    assert len(list((tmp_path / "second").glob("*.json"))) == 3 * 2 * scenarios
    for more, message in (
        (["--reuse", tmp_path / "nowhere"], f"--reuse: there are no records in {tmp_path / 'nowhere'}"),
        (["--reuse", report, "--force"], "allowed: one of the two"),
    ):
        result = call("run", *common, "--out", tmp_path / "third", *more)
        assert (result.exit_code, message in result.stderr) == (2, True), result.output


def test_a_search_goes_on_from_the_one_in_a_report(protocol_file, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "perform", finished)
    some = [protocol_file, "--methods", "si", "--scenario", "class", "--jobs", 1]
    assert call("tune", *some, "--out", tmp_path / "search").exit_code == 0
    run = [*some, "--wandb", "disabled", "--seeds", 1]
    assert call("run", *run, "--out", tmp_path / "runs").exit_code == 0
    result = call("report", protocol_file, "--records", tmp_path / "runs", "--tuning", tmp_path / "search")
    assert result.exit_code == 0, result.output
    monkeypatch.setattr(training, "perform", never)
    result = call("tune", *some, "--out", tmp_path / "again", "--reuse", tmp_path / "runs" / "report")
    assert result.exit_code == 0, result.output
