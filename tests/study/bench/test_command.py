import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from study.bench import plan
from study.bench.plan import Scale, measure, scale_for
from study.bench.record import Measurement, Skipped, file_of, read, write
from study.bench.report import compose, write_report
from study.bench.workloads import Workload, mlp
from study.cli import app
from study.data import DataError
from study.reporting.markdown import to_markdown
from tests.study.bench.synthetic import a_pass, agreement, measurement, performance, skipped

COMMITTED = Path(__file__).parents[3] / "reports" / "performance"
TINY = Workload("MLP 400-400", lambda classes: mlp(4, classes), (784,), batch=8, samples=64)
SCALE = Scale((TINY,), (TINY,), (TINY,), (2, 3), 2, 2, (3,), 0.05, 64, (1, 2), (2**24,), 16, 1, 5)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture
def measuring(monkeypatch):
    """What a part comes to, by part, instead of measuring."""
    found = {part: [measurement("EWC, ours", 1.1, part=part)] for part in plan.PARTS["cpu"]}
    monkeypatch.setattr(plan, "measure", lambda part, *_: iter(found[part]))
    return found


def test_parts_are_measured_kept_and_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "scale_for", lambda *_: SCALE)
    monkeypatch.setattr("study.bench.steps.TURN", 0.0)
    out = tmp_path / "out"
    result = call("--only", "step,limit", "--threads", 1, "--out", out)
    assert result.exit_code == 0, result.output
    kept = json.loads(file_of(out, "cpu").read_text())
    assert list(kept["parts"]) == ["step", "limit"]
    assert kept["parts"]["step"]["circumstances"]["threads"] == 1
    assert "step: step over Naive's: EWC, ours, MLP 400-400, experience 3" in result.stderr
    text = (out / "README.md").read_text()
    assert "| EWC, ours |" in text
    assert "experience 3 over 2" in text
    assert "index.html" in result.stdout
    assert {path.name for path in (out / "figures").iterdir()} == {"step-mlp-400-400-cpu.svg"}


def test_a_part_that_is_measured_again_leaves_the_others_as_they_were(measuring, tmp_path):
    assert call("--out", tmp_path).exit_code == 0
    measuring["step"] = [measurement("EWC, ours", 1.3)]
    assert call("--only", "step", "--out", tmp_path).exit_code == 0
    parts = read(tmp_path, "cpu").parts
    assert list(parts) == list(plan.PARTS["cpu"])
    assert [part.measurements[0].median for part in parts.values()] == [1.3, 1.1, 1.1, 1.1, 1.1]


def test_the_parts_before_an_interrupt_are_kept(measuring, tmp_path, monkeypatch):
    def interrupted(part, *_):
        if part == "pass":
            raise KeyboardInterrupt
        return iter(measuring[part])

    monkeypatch.setattr(plan, "measure", interrupted)
    assert call("--out", tmp_path).exit_code != 0
    assert list(read(tmp_path, "cpu").parts) == ["step"]


def test_check_names_what_regressed_and_changes_nothing(measuring, tmp_path):
    assert call("--out", tmp_path).exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert call("--check", "--out", tmp_path).exit_code == 0
    measuring["step"] = [measurement("EWC, ours", 2.0)]
    result = call("--check", "--out", tmp_path)
    assert result.exit_code == 1
    assert "step over Naive's: EWC, ours, MLP 400-400, experience 2: 2.00, recorded 1.10" in result.stdout
    assert call("--check", "--only", "pass", "--out", tmp_path).exit_code == 0
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_gpu_is_recorded_beside_a_cpu(measuring, tmp_path, monkeypatch):
    assert call("--only", "step", "--out", tmp_path).exit_code == 0
    measuring["waiting"] = [measurement("EWC, ours", 0.0, part="waiting")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    result = call("--device", "cuda", "--only", "waiting", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert {device: list(read(tmp_path, device).parts) for device in plan.PARTS} == {
        "cpu": ["step"],
        "cuda": ["waiting"],
    }


def test_the_help_names_every_part():
    text = " ".join(call("--help").stdout.split())
    for parts in plan.PARTS.values():
        for part in parts:
            assert re.search(rf"\b{part}\b", text.partition("Only these parts")[2].partition("--")[0]), part


def test_errors_are_one_line_and_exit_2(measuring, tmp_path):
    (tmp_path / "mine.txt").write_text("not a report")
    cases = {
        ("--only", "steps"): "--only: unknown name 'steps'",
        ("--check",): "there is nothing to compare with",
        (): "holds no measurements; allowed for --out",
    }
    if not torch.cuda.is_available():
        cases["--device", "cuda"] = "no GPU that PyTorch can use; allowed: cpu"
    for arguments, message in cases.items():
        result = call(*arguments, "--out", tmp_path)
        assert result.exit_code == 2, result.output
        assert message in result.stderr
        assert "Traceback" not in result.output
    file_of(tmp_path, "cpu").write_text('{"device": "cpu", "parts": {"step": 3}}')
    result = call("--out", tmp_path)
    assert result.exit_code == 2
    assert "holds no measurements: parts.step" in result.stderr


def test_measurements_are_read_as_they_were_written(tmp_path):
    kept = performance(measurement("EWC, ours", 1.1, float("nan")), skipped=(skipped(),), agreements=(agreement(1e-6),))
    write(tmp_path, kept)
    assert read(tmp_path, "cpu").model_dump_json() == kept.model_dump_json()
    assert read(tmp_path, "cuda").parts == {}


def test_the_study_without_its_data_is_said_to_be_missing(monkeypatch, tmp_path):
    def missing(*_):
        raise DataError("MNIST is not there")

    monkeypatch.setattr(plan, "measure_over_bare_loop", missing)
    (found,) = measure("study", scale_for("cpu", True), torch.device("cpu"), tmp_path)
    assert isinstance(found, Skipped)
    assert found.reason == "MNIST is not there"


@pytest.mark.slow
def test_the_study_is_compared_with_a_bare_loop(mnist):
    found = list(plan.measure_over_bare_loop(mnist, iterations=3))
    assert [len(each.values) for each in found if isinstance(each, Measurement)] == [5]
    assert all(each.median > 0 for each in found)


# ------------------------------------------------------------------------------------------------------ the page


WHOLE = performance(
    *(
        measurement(f"EWC, {kind}", *(factor * value for value in (1.0, 1.1, 1.2)), setting=f"experience {experience}")
        for kind, growth in (("ours", 1), ("Avalanche", 3), ("plain autograd", 2))
        for experience, factor in ((2, 1), (10, growth), (50, growth**2))
    ),
    a_pass("exact Fisher, ours", 0.9),
    a_pass("exact Fisher, BackPACK", 2.0, note="a note; scaled from 64 samples"),
    a_pass("exact Fisher, ours", 1.5, quantity="times as fast as BackPACK", better="higher"),
    skipped=(skipped(),),
    agreements=(agreement(1e-6),),
)


def test_the_page_says_what_was_measured_what_was_asked_and_whether_it_is_met():
    text = to_markdown(compose([WHOLE]))
    assert "| EWC, ours | ✓ 1.10 [1.05, 1.15] | ✓ 1.10 [1.05, 1.15] | ✓ 1.10 [1.05, 1.15] |" in text
    assert "| EWC, Avalanche | 1.10 [1.05, 1.15] | 3.30 [3.15, 3.45] | 9.90 [9.45, 10.3] |" in text
    assert "| exact Fisher, ours | ✗ 1.50 |" in text
    assert "**On a CPU:** 2 of 3 targets are met throughout." in text
    assert "exact Fisher, BackPACK: a note." in text
    assert "Timed on fewer samples, and scaled: exact Fisher, BackPACK: 64 samples." in text
    assert "it knows no attention" in text
    assert "0.10 to 1.90" in text
    assert "2 of 2" in text


def test_the_page_and_its_figures_are_written_and_the_same_each_time(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / folder, WHOLE)
        page = write_report(tmp_path / folder)
        assert page.read_text().startswith("<!DOCTYPE html>")
    a, b = (
        {path.relative_to(tmp_path / folder): path.read_bytes() for path in (tmp_path / folder).rglob("*.*")}
        for folder in ("a", "b")
    )
    assert a == b
    assert {path.name for path in a} >= {"step-mlp-400-400-cpu.svg", "pass-mlp-400-400-cpu.svg", "README.md"}


def test_both_devices_share_a_page(tmp_path):
    write(tmp_path, WHOLE)
    write(tmp_path, performance(measurement("EWC, ours", 1.2, model="ResNet-18"), device="cuda"))
    write_report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "## On a CPU" in text
    assert "## On a GPU" in text
    assert "**On a GPU:** 0 of 1 targets are met throughout." in text


def test_the_committed_page_is_that_of_its_measurements(tmp_path):
    if not any(file_of(COMMITTED, device).is_file() for device in plan.PARTS):
        pytest.skip("nothing has been recorded yet")
    for device in plan.PARTS:
        if file_of(COMMITTED, device).is_file():
            shutil.copy(file_of(COMMITTED, device), tmp_path)
    write_report(tmp_path)
    for name in ("README.md", "index.html"):
        assert (tmp_path / name).read_text() == (COMMITTED / name).read_text(), name
