import json
import re

import pytest
import torch
from typer.testing import CliRunner, Result

from study.bench import plan
from study.bench.plan import Scale, Unit, scale_for, units
from study.bench.record import Skipped, file_of, read, write
from study.bench.under_way import Request, UnderWay, under_way_file
from study.bench.workloads import Workload, mlp
from study.cli.app import app
from study.run.data import DataError
from tests.study.bench.synthetic import agreement, measurement, performance, skipped

TINY = Workload("MLP 400-400", lambda classes: mlp(4, classes), (784,), batch=8, samples=64)
SCALE = Scale(
    (TINY,),
    (TINY,),
    (TINY,),
    experiences=(2, 3),
    step_rounds=2,
    pass_rounds=2,
    classes=(3,),
    patience=0.05,
    held_after=(1, 2),
    bounds=(2**24,),
    peak_samples=16,
    peak_rounds=1,
    runs=1,
    iterations=5,
)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture
def measuring(monkeypatch):
    """What a part comes to, by part, instead of measuring."""
    found = {part: [measurement("EWC, ours", 1.1, part=part)] for part in plan.PARTS["cpu"]}
    monkeypatch.setattr(plan, "units", lambda part, *_: [Unit("all", lambda: iter(found[part]))])
    return found


@pytest.mark.filterwarnings("ignore:weights changed outside")  # what is timed moves them by hand
def test_parts_are_measured_kept_and_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "scale_for", lambda *_: SCALE)
    monkeypatch.setattr("study.bench.timing.TURN", 0.0)
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


def test_quick_measurements_do_not_take_the_place_of_full_ones(measuring, tmp_path):
    assert call("--only", "step", "--out", tmp_path).exit_code == 0
    before = file_of(tmp_path, "cpu").read_bytes()
    result = call("--quick", "--out", tmp_path)
    assert result.exit_code == 2
    assert "--quick would replace full measurements of step in" in result.output
    assert file_of(tmp_path, "cpu").read_bytes() == before
    assert call("--quick", "--only", "limit", "--out", tmp_path).exit_code == 0
    assert call("--quick", "--only", "limit", "--out", tmp_path).exit_code == 0, "quick ones may be measured again"


class Work:
    """Units that say when they are measured, the last of which is interrupted at first."""

    def __init__(self, monkeypatch):
        self.done = []
        self.interrupted = "pass, second"
        monkeypatch.setattr(plan, "units", lambda part, *_: [self.unit(part, name) for name in ("first", "second")])

    def unit(self, part, name):
        def measure():
            if f"{part}, {name}" == self.interrupted:
                raise KeyboardInterrupt
            self.done.append(f"{part}, {name}")
            value = 1.0 + 0.1 * len(self.done)
            yield measurement("EWC, ours", value, part=part, setting=f"experience {2 if name == 'first' else 3}")

        return Unit(name, measure)


@pytest.fixture
def work(monkeypatch):
    return Work(monkeypatch)


COMMAND = "--only", "step,pass", "--threads", 1


def test_after_an_interrupt_the_same_command_goes_on(work, tmp_path):
    result = call(*COMMAND, "--out", tmp_path)
    assert result.exit_code == 130, result.output
    assert "interrupted; the same command goes on" in result.stderr
    assert list(read(tmp_path, "cpu").parts) == ["step"]
    assert "step" in (tmp_path / "README.md").read_text()
    work.interrupted = None
    result = call(*COMMAND, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "going on after an interrupt: 3 of 4 are measured" in result.stderr
    assert work.done == ["step, first", "step, second", "pass, first", "pass, second"]
    parts = read(tmp_path, "cpu").parts
    assert [each.setting for each in parts["pass"].measurements] == ["experience 2", "experience 3"]
    assert [each.median for each in parts["pass"].measurements] == pytest.approx([1.3, 1.4])
    assert not under_way_file(tmp_path, "cpu").exists()
    assert call(*COMMAND, "--out", tmp_path).exit_code == 0
    assert len(work.done) == 8, "what was finished is measured anew when it is asked for again"


@pytest.mark.parametrize("other", [("--only", "pass"), ("--threads", 2)], ids=lambda each: each[0])
def test_another_command_begins_anew(work, tmp_path, other):
    assert call(*COMMAND, "--out", tmp_path).exit_code == 130
    work.interrupted, work.done = None, []
    assert call(*COMMAND, *other, "--out", tmp_path).exit_code == 0
    assert "pass, first" in work.done


def test_an_interrupt_in_the_first_unit_leaves_a_folder_that_can_be_used(work, tmp_path):
    work.interrupted = "step, second"
    assert call(*COMMAND, "--out", tmp_path).exit_code == 130
    work.interrupted = None
    assert call(*COMMAND, "--out", tmp_path).exit_code == 0


def test_what_was_under_way_and_cannot_be_read_is_an_error(work, tmp_path):
    under_way_file(tmp_path, "cpu").write_text("{")
    result = call(*COMMAND, "--out", tmp_path)
    assert result.exit_code == 2
    assert "cpu.under-way.json does not say what was measured before an interrupt" in result.stderr


def test_circumstances_span_the_interrupt():
    first, second = (
        performance(measurement())
        .parts["step"]
        .circumstances.model_copy(update={"started": f"{hour}:00", "ended": f"{hour}:30", "load": (hour, hour + 0.5)})
        for hour in (1, 7)
    )
    found = UnderWay(request=Request.of(["step"], "cpu", first), done={}, parts={})
    found = found.with_unit("step", "a", [measurement()], first).with_unit("step", "b", [skipped()], second)
    record = found.parts["step"]
    assert (record.circumstances.started, record.circumstances.ended) == ("1:00", "7:30")
    assert record.circumstances.load == (1, 7.5)
    assert (len(record.measurements), len(record.skipped)) == (1, 1)
    assert found.has("step", "b")
    assert not found.has("step", "c")


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


def test_every_part_has_units_of_different_names_in_full_and_quickly(tmp_path):
    for device, parts in plan.PARTS.items():
        for part in parts:
            for quick in (True, False):
                names = [unit.name for unit in units(part, scale_for(device, quick), torch.device(device), tmp_path)]
                assert names
                assert len(names) == len(set(names)), names


def test_the_study_without_its_data_is_said_to_be_missing(monkeypatch, tmp_path):
    def missing(*_):
        raise DataError("MNIST is not there")

    monkeypatch.setattr(plan, "measure_whole_runs", missing)
    (unit,) = units("study", scale_for("cpu", True), torch.device("cpu"), tmp_path)
    (found,) = unit.measure()
    assert isinstance(found, Skipped)
    assert found.reason == "MNIST is not there"
