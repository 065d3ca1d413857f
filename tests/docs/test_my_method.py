"""The guide to a method of one's own, run as it is printed."""

import shlex
from pathlib import Path

import pytest
from click.testing import Result
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
    (data, method), (protocol,), (lines, _) = (blocks(PAGE, language) for language in ("python", "toml", "sh"))
    for file, text in {"data.py": data, "mine.py": method, "my.toml": protocol}.items():
        (folder / file).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(run_commands, "usable_cpus", lambda: 1)  # in this process, which has imported what it takes
        for line in lines.splitlines():
            called(line)
    return folder


def called(line: str, exit_code: int = 0) -> Result:
    program, *arguments = shlex.split(line)
    assert program == "clreg-study"
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == exit_code, f"{line}: {result.output}"
    return result


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


def test_the_first_screen_of_the_report_says_what_was_found_and_compares_the_method_with_ewc(folder):
    page = (folder / "runs" / "my" / "report" / "README.md").read_text(encoding="utf-8")
    screen = page[: page.index("<details>")]
    lead, rest = screen.split("\n\n", 2)[1:]
    assert lead.startswith("Domain-incremental: `ewc` has the highest average accuracy, ")
    assert lead.endswith("with 5 seeds and 3 pairs no difference can be significant, with 7 seeds it could.")
    assert rest.count("15 runs finished.") == 1
    pairs = [line.split(" | ")[0] for line in rest.splitlines() if " − " in line]
    assert pairs == ["| stay-close − ewc", "| stay-close − none", "| ewc − none"]


def test_after_an_edit_the_new_version_is_compared_with_the_old_one(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(run_commands, "usable_cpus", lambda: 1)
    text = (folder / "mine.py").read_text(encoding="utf-8")
    (folder / "mine.py").write_text(text.replace("self.reg_lambda / 2", "self.reg_lambda"), encoding="utf-8")
    old = called("clreg-study compare my.toml:ewc my.toml:stay-close", exit_code=2)
    assert "left out, made with another version of ./mine.py" in old.stderr
    assert "error: my.toml:stay-close: no records of method 'stay-close' in runs/my; allowed: ewc, none" in old.stderr
    report = called("clreg-study report my.toml --out without")
    assert "of the search, left out, made with another version of ./mine.py" in report.stderr
    *before, compare = blocks(PAGE, "sh")[1].splitlines()
    output = [called(line).output for line in before]
    assert "15 of 30 runs have ended already" in output[0]
    assert "10 of 15 runs have ended already" in output[1]
    assert "A and B differ in the code of method (" in called(compare).output

    (folder / "data.py").write_text((folder / "data.py").read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")
    few = "--seeds 1 --methods none --wandb disabled --jobs 1"
    called(f"clreg-study run my.toml --out other {few}")
    refused = called("clreg-study compare runs/my:none other:none", exit_code=2)
    assert "their data comes from two versions of ./data.py (hashes " in refused.stderr
    assert "a benchmark in a file of its own keeps its version when a method is edited" in refused.stderr
