import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from study.bench import plan
from study.bench.plan import PARTS, PLANS, Plan
from study.bench.record import Measurement, file_of, read
from study.bench.report import HIGHLIGHTS, write_page
from study.bench.step import STEP
from study.cli.app import app
from tests.study.bench.tiny import TINY

REPORT = Path(__file__).parents[3] / "reports" / "performance"
SMALL = Plan(
    steps=(TINY,),
    passes=((TINY, 10),),
    held=TINY,
    peaks=(),
    bound=2**24,
    experiences=(2, 3),
    step_rounds=2,
    pass_rounds=2,
    patience=0.01,
)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


def step(value: float, by: str = "clreg", setting: str = "experience 2") -> Measurement:
    return Measurement(model="tiny", method="EWC", by=by, setting=setting, quantity=STEP, values=(value,))


@pytest.fixture
def work(monkeypatch):
    """What each unit of a part measures, by part."""
    found = {part: lambda: iter([step(1.1)]) for part in PARTS}
    monkeypatch.setattr(plan, "units", lambda part, *_: [("first", found[part]), ("second", found[part])])
    return found


def test_everything_is_measured_kept_and_shown(tmp_path, monkeypatch):
    monkeypatch.setattr("study.run.timing.TURN", 0.0)
    monkeypatch.setitem(PLANS, "cpu", SMALL)
    result = call("--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "step: EWC, clreg, tiny, experience 3:" in result.stdout
    kept = json.loads(file_of(tmp_path / "out", "cpu").read_text())
    assert list(kept["parts"]) == list(PARTS)
    assert kept["parts"]["step"]["circumstances"]["threads"] == torch.get_num_threads()
    page = (tmp_path / "out" / "README.md").read_text()
    assert "A training step with Avalanche's EWC takes" in page
    assert "| exact Fisher |" in page
    assert "share of a matrix product's rate" in page
    assert "held by a plugin" in page
    figures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert figures == {"step.svg", "pass-cpu.svg"}
    assert all(f"figures/{name}" in page for name in figures)


def test_a_part_that_is_measured_again_leaves_the_others_as_they_were(work, tmp_path):
    assert call("--out", tmp_path).exit_code == 0
    work["step"] = lambda: iter([step(1.3)])
    assert call("--only", "step", "--out", tmp_path).exit_code == 0
    found = read(tmp_path, "cpu")
    assert {part: {each.median for each in found.of(part)} for part in PARTS} == {
        "step": {1.3},
        "memory": {1.1},
        "pass": {1.1},
    }


def test_what_does_not_fit_the_device_is_named_and_the_rest_is_measured(work, tmp_path):
    def too_large():
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    work["memory"] = too_large
    assert call("--out", tmp_path).exit_code == 0
    found = read(tmp_path, "cpu")
    assert [(each.method, each.note) for each in found.parts["memory"].measurements] == [
        (name, "OutOfMemoryError: CUDA out of memory") for name in ("first", "second")
    ]
    assert len(found.of("pass")) == 2
    assert "CUDA out of memory" in (tmp_path / "README.md").read_text()


def test_nothing_begins_after_the_time_is_over(work, tmp_path, monkeypatch):
    monkeypatch.setitem(PLANS, "cpu", Plan(**{**vars(SMALL), "seconds": -60.0}))
    assert call("--out", tmp_path).exit_code == 0
    for record in read(tmp_path, "cpu").parts.values():
        assert [each.values for each in record.measurements] == [(), ()]
        assert "were over before it began" in record.measurements[0].note


def test_an_interrupt_keeps_what_was_measured(work, tmp_path):
    def interrupted():
        raise KeyboardInterrupt
        yield

    work["pass"] = interrupted
    assert call("--out", tmp_path).exit_code != 0
    assert list(read(tmp_path, "cpu").parts) == ["step", "memory"]


def test_a_gpu_is_measured_within_ten_minutes():
    assert PLANS["cuda"].seconds <= 8 * 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "speed"], "'speed' is not one of"),
        (["--rebuild"], "holds no measurements: expected cpu.json and cuda.json, or one of them"),
        (["--device", "cuda"], "this machine has no GPU that PyTorch can use; allowed: cpu"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = call(*arguments, "--out", tmp_path)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()).replace("│ ", "")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    result = call("--out", tmp_path)
    assert result.exit_code == 2
    assert "is not empty and holds no measurements" in result.output
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the file: Invalid JSON"),
        ('{"device": "tpu"}', "device: Input should be 'cpu' or 'cuda'"),
        ('{"device": "cuda"}', "holds measurements on 'cuda'; expected 'cpu'"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(text, message, tmp_path):
    file_of(tmp_path, "cpu").write_text(text)
    result = call("--rebuild", "--out", tmp_path)
    assert result.exit_code == 2
    assert "cpu.json" in result.output
    assert message in result.output


def test_the_committed_page_is_that_of_the_committed_measurements(tmp_path):
    for path in REPORT.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_page(tmp_path)
    for path in [REPORT / "README.md", *(REPORT / "figures").iterdir()]:
        assert (tmp_path / path.relative_to(REPORT)).read_bytes() == path.read_bytes(), path


def test_the_first_screen_is_a_sentence_a_figure_and_one_short_table():
    first_screen = (REPORT / "README.md").read_text().partition("\n## ")[0]
    title, sentence, figure, table, origin = first_screen.strip().split("\n\n")
    assert title.startswith("# ")
    assert "experience 50" in sentence
    assert figure.startswith("![")
    assert len(table.splitlines()) - 2 <= len(HIGHLIGHTS) <= 8
    assert origin.startswith("Measured on the CPU: clreg ")
