import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from study.bench import plan
from study.bench.plan import Scale, Unit, scale_for, units
from study.bench.record import Skipped, file_of, read, write
from study.bench.report import compose, write_report
from study.bench.under_way import Request, UnderWay, under_way_file
from study.bench.whole import A_MINUTE, BARE, OVER_BARE, PROTOCOL, bare_run, measure_whole_runs
from study.bench.workloads import Workload, mlp
from study.checkpoints import Checkpoint
from study.cli import app
from study.data import DataError, Images, kept_images, load_images
from study.protocol import load_protocol
from study.records import Hardware
from study.reporting.markdown import to_markdown
from study.store import RunStore
from tests.study.bench.synthetic import a_pass, agreement, measurement, performance, skipped

COMMITTED = Path(__file__).parents[3] / "reports" / "performance"
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


@pytest.mark.parametrize("other", [("--only", "pass"), ("--quick",), ("--threads", 2)], ids=lambda each: each[0])
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


@pytest.fixture
def ten_each(tmp_path):
    """Images of ten of each digit, which show it by where they are bright."""
    targets = torch.arange(10).repeat(10)
    pixels = torch.zeros(100, 1, 28, 28, dtype=torch.uint8)
    pixels[torch.arange(100), 0, targets, :] = 255
    images = Images(pixels, targets)
    kept_images("split_mnist", tmp_path.resolve()).append((images, images))
    yield tmp_path
    kept_images.cache_clear()


def test_the_bare_loop_learns_every_task(ten_each):
    training = load_protocol(PROTOCOL).training.model_copy(update={"iterations": 20, "batch_size": 8})
    matrix = bare_run(*load_images("split_mnist", ten_each), training)
    assert len(matrix) == len(matrix[0]) == 5
    assert [row[task] for task, row in enumerate(matrix)] == [1.0] * 5, matrix


def test_whole_runs_are_timed_from_the_benchmark_to_the_record_in_its_file(ten_each, monkeypatch):
    written, checkpoints = [], []
    monkeypatch.setattr(RunStore, "write", lambda store, record: written.append(record))
    monkeypatch.setattr(Checkpoint, "save", lambda *_: checkpoints.append(1))
    monkeypatch.setattr("study.bench.whole.load_protocol", lambda name, changes: small(load_protocol(name, changes)))
    found = list(measure_whole_runs(ten_each, rounds=1, iterations=3))
    assert all(record.finished for record in written)
    assert len(written) == 2
    assert len(checkpoints) == 2 * 4, "one after each experience but the last"
    rates = {each.mode: each for each in found if each.quantity == A_MINUTE}
    assert set(rates) == {"none", "ewc-2018", BARE}
    ratios = {each.mode: each for each in found if each.quantity == OVER_BARE}
    assert set(ratios) == {"none", "ewc-2018"}
    for mode, each in ratios.items():
        assert each.values == pytest.approx(
            [b / m for b, m in zip(rates[BARE].values, rates[mode].values, strict=True)]
        )


def small(protocol):
    return protocol.model_copy(update={"training": protocol.training.model_copy(update={"batch_size": 8})})


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
    assert "**On a CPU:** 1 of 18 targets are met throughout, 16 of them not measured or not in full." in text
    assert "| a step with SI over Naive's | ≤ 1.25 | not measured | nothing of it was recorded | – |" in text
    assert (
        "| state held by SI, in copies | ≤ 4.00 | not measured | this part was not measured: --only memory does" in text
    )
    assert "✓ 3 of 3, 3 not measured" in text
    what = "“a step with L2, EWC, Online EWC or MAS over Naive's”"
    assert f"Not measured of {what}: L2, ours; Online EWC, ours; MAS, ours (nothing of it was recorded)." in text
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


def test_what_was_timed_without_a_comparison_is_said():
    alone = a_pass("exact Fisher, n = 500, ours", 0.1)
    loop = a_pass("exact Fisher, one at a time", 80.0)
    found = performance(a_pass("exact Fisher, ours", 0.9), alone, loop, agreements=(agreement(1e-6),))
    text = to_markdown(compose([found]))
    assert "Timed as what others are compared with: exact Fisher, one at a time." in text
    assert "without a comparison, since nothing else computes the same: exact Fisher, n = 500, ours." in text


def test_parts_of_different_machines_say_so():
    text = to_markdown(compose([WHOLE]))
    assert text.count("Machine: a processor") == 1
    steps = WHOLE.parts["step"]
    now = steps.circumstances.model_copy(update={"hardware": Hardware(system="Linux", processor="another")})
    moved = WHOLE.with_part("step", steps.model_copy(update={"circumstances": now}))
    text = to_markdown(compose([moved]))
    assert "A training step: Machine: another, Linux. Versions: torch 2.9." in text
    assert "An importance pass: Machine: a processor, Linux x86_64. Versions: torch 2.9." in text


def test_both_devices_share_a_page(tmp_path):
    write(tmp_path, WHOLE)
    write(tmp_path, performance(measurement("EWC, ours", 1.2, model="ResNet-18"), device="cuda"))
    write_report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "## On a CPU" in text
    assert "## On a GPU" in text
    assert "**On a GPU:** 0 of 6 targets are met throughout, 6 of them not measured or not in full." in text


def test_the_committed_page_is_that_of_its_measurements(tmp_path):
    if not any(file_of(COMMITTED, device).is_file() for device in plan.PARTS):
        pytest.skip("nothing has been recorded yet")
    for device in plan.PARTS:
        if file_of(COMMITTED, device).is_file():
            shutil.copy(file_of(COMMITTED, device), tmp_path)
    write_report(tmp_path)
    for name in ("README.md", "index.html"):
        assert (tmp_path / name).read_text() == (COMMITTED / name).read_text(), name
