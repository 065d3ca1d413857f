"""The page that is made of the measurements."""

import re
import shutil
from pathlib import Path

import pytest

from study.bench import plan
from study.bench.operations import BARE
from study.bench.record import file_of, write
from study.bench.report import compose, write_report
from study.records.run_record import Hardware
from study.report.markdown import to_markdown
from tests.study.bench.synthetic import a_pass, agreement, measurement, performance, skipped

COMMITTED = Path(__file__).parents[3] / "reports" / "performance"

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
    assert "**On a CPU:** 1 of 18 targets are met throughout; 16 were not measured, or not in full." in text
    assert "| a step with SI, times Naive's | ≤ 1.25 | not measured | nothing of it was recorded | – |" in text
    assert (
        "| state held by SI, in copies | ≤ 4.00 | not measured | this part was not measured: --only memory does" in text
    )
    assert "✓ 3 of 3, 3 not measured" in text
    what = "“a step with L2, EWC, Online EWC or MAS, times Naive's”"
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
    assert "**On a GPU:** 0 of 6 targets are met throughout; 6 were not measured, or not in full." in text


def test_what_a_target_is_made_of_has_a_column_where_it_was_measured():
    step = measurement("EWC, ours", 1.2)
    bare = measurement("a penalty", 1.125, part="limit", setting="", quantity=BARE, ours=False)
    without, beside = (to_markdown(compose([performance(*found)])) for found in ((step,), (step, bare)))
    assert "bare |" not in without
    assert "Bare:" not in without
    assert re.search(r"\| a step with L2, EWC, Online EWC or MAS, times Naive's .* \| 1\.12 \|\n", beside)


def test_the_committed_page_is_that_of_its_measurements(tmp_path):
    if not any(file_of(COMMITTED, device).is_file() for device in plan.PARTS):
        pytest.skip("nothing has been recorded yet")
    for device in plan.PARTS:
        if file_of(COMMITTED, device).is_file():
            shutil.copy(file_of(COMMITTED, device), tmp_path)
    write_report(tmp_path)
    for name in ("README.md", "index.html"):
        assert (tmp_path / name).read_text() == (COMMITTED / name).read_text(), name
