"""README's example gives the numbers that stand below it, and its table those of the reports."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clreg_plugins import __version__
from study.records.store import TUNING_ARCHIVE, read_archive
from study.run.metrics import average_accuracy
from tests.docs.pages import ROOT, blocks

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_opens_with_the_two_commands_and_stays_short():
    first = blocks("README.md", "sh")[0]
    assert [line.split(" #")[0].strip() for line in first.splitlines()] == ["make study", "make test"]
    assert len(README.splitlines()) <= 150


def test_the_example_gives_the_numbers_below_it(tmp_path: Path):
    """Within 2 points a seed and 1 on average: other CPUs round otherwise."""
    example = blocks("README.md")[0]
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    printed = [line for line in done.stdout.splitlines() if line.startswith("with")]
    shown = blocks("README.md", "text")[0].splitlines()
    assert len(printed) == len(shown) == 2
    for got, want in zip(map(_numbers, printed), map(_numbers, shown), strict=True):
        assert got[:5] == pytest.approx(want[:5], abs=2), f"{got} is printed, README shows {want}"
        assert got[5] == pytest.approx(want[5], abs=1), f"{got} is printed, README shows {want}"
    without, with_ewc = map(_numbers, printed)
    assert all(b > a + 8 for a, b in zip(without, with_ewc, strict=True)), "EWC makes a visible difference by each seed"


def _numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d", line)]


def test_the_plain_loop_runs():
    names: dict[str, object] = {}
    exec(compile(blocks("README.md")[1], "README.md", "exec"), names)
    assert names["penalty"].n_terms == 2


@pytest.mark.parametrize(
    ("report", "row", "numbers"),
    [
        ("performance", "| EWC, Avalanche |", ["1.38", "14.8"]),
        ("performance", "| EWC, clreg |", ["1.33", "1.31"]),
        ("performance", "| EWC, Avalanche |", ["98.0"]),
        ("performance", "| EWC, clreg |", ["4.00"]),
        ("performance", "| SI, Avalanche |", ["2.79"]),
        ("performance", "| SI, clreg |", ["1.17"]),
        ("fisher-variants", "| batched |", ["8.7e-6"]),
    ],
)
def test_the_tables_numbers_stand_in_the_reports(report: str, row: str, numbers: list[str]):
    rows = [line for line in (ROOT / "reports" / report / "README.md").read_text().splitlines() if row in line]
    assert any(all(number in line for number in numbers) for line in rows), f"{report}: no {row} with {numbers}"
    for number in numbers:
        shown = number.removesuffix(".00").removesuffix(".0")
        assert shown in README, f"README does not show {shown}"


@pytest.mark.parametrize(("method", "strength"), [("batched", 1e5), ("batched", 1e9), ("exact", 1e5)])
def test_what_the_table_says_of_a_lambda_is_what_the_search_recorded(method: str, strength: float):
    records = read_archive(ROOT / "reports" / "fisher-variants" / TUNING_ARCHIVE)
    found = [record for record in records if record.run.label == method and record.run.strength == strength]
    mean = 100 * np.mean([average_accuracy(np.array(record.accuracy)) for record in found])
    assert f"{mean:.2f}%" in README


def test_avalanches_wandb_logger_fails_as_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from avalanche.logging import WandBLogger

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AttributeError, match="generate_id"):
        WandBLogger()


def test_the_citation_and_the_changelog_are_of_this_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    latest = re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert latest.group(1) == __version__
