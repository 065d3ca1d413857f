"""The guide to a method of one's own, run as it is printed."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from study.cli import run_commands
from study.cli.app import app
from study.records.store import RunStore
from study.run.metrics import average_accuracy
from tests.docs.pages import blocks

PAGE = "docs/my_method.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, in which its commands have run."""
    folder = tmp_path_factory.mktemp("guide")
    (code,), (protocol,), (lines,) = (blocks(PAGE, language) for language in ("python", "toml", "sh"))
    (folder / "mine.py").write_text(code, encoding="utf-8")
    (folder / "my.toml").write_text(protocol, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(run_commands, "usable_cpus", lambda: 1)  # in this process, which has imported what it takes
        for line in lines.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "clreg-study"
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 0, f"{line}: {result.output}"
    return folder


def test_every_method_ran_on_five_seeds_with_its_searched_lambda(folder):
    records = RunStore(folder / "runs" / "my").read_all()
    assert {(record.run.label, record.run.seed) for record in records} == {
        (method, seed) for method in ("none", "ewc", "stay-close") for seed in range(5)
    }
    grid = {"none": [None], "ewc": [1, 10, 100], "stay-close": [1e-2, 1e-1, 1]}
    assert all(record.run.strength in grid[record.run.label] for record in records)
    assert all(len(record.accuracy) == 3 for record in records)


def test_the_plugin_and_the_options_have_an_effect(folder):
    first = {r.run.label: r for r in RunStore(folder / "runs" / "my").read_all() if r.run.seed == 0}
    assert first["stay-close"].accuracy[0] == first["none"].accuracy[0]
    assert first["stay-close"].loss[1] != first["none"].loss[1]
    assert first["none"].accuracy[0][0] > 0.5, "it learns"
    weights = 4 * (64 * 50 + 50 * 10)
    assert first["stay-close"].plugin_memory == weights, "the mean of the weights without the biases"


def test_what_the_page_says_of_ewc_holds(folder):
    mean = {}
    for record in RunStore(folder / "runs" / "my").read_all():
        mean[record.run.label] = mean.get(record.run.label, 0) + average_accuracy(record.accuracy) / 5
    assert 0.05 < mean["ewc"] - mean["none"] < 0.2, mean


def test_the_report_compares_it_with_ewc(folder):
    page = (folder / "runs" / "my" / "report" / "README.md").read_text(encoding="utf-8")
    assert "stay-close" in page
    assert "ewc" in page
