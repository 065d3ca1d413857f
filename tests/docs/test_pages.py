"""Pages of documentation: what they show runs, what they name exists."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from clreg_plugins.from_avalanche import DIFFERENCES
from study.cli.app import app
from tests.docs.pages import ROOT, blocks, run

PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]
DATA = os.environ.get("CLREG_DATA_ROOT")


# ----------------------------------------------------------------------------- examples


@pytest.mark.parametrize("page", ["index", "methods", "which_fisher", "strategies"])
def test_its_python_runs(page: str):
    run(f"docs/{page}.md")


@pytest.mark.filterwarnings("ignore:EWCPlugin made from avalanche")
def test_the_conversion_gives_what_its_comment_says():
    plugin = run("docs/from_avalanche.md")["plugin"]
    assert repr(plugin).startswith("EWCPlugin(reg_lambda=0.8, fisher='batched', ")


def test_the_logger_logs_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In a process of its own: wandb's service ends with it."""
    (tmp_path / "example.py").write_text(blocks("docs/wandb.md")[0], encoding="utf-8")
    _succeeds(tmp_path)
    assert list(tmp_path.glob("wandb/offline-run-*-ewc-0")), "no offline run was written"


@pytest.mark.skipif(DATA is None, reason="CLREG_DATA_ROOT does not name a folder with MNIST")
def test_getting_started_ends_at_98_percent(tmp_path: Path):
    (tmp_path / "data").symlink_to(Path(DATA).resolve())
    example, inspection = blocks("docs/getting_started.md")
    (tmp_path / "example.py").write_text(example + inspection, encoding="utf-8")
    output = _succeeds(tmp_path)
    accuracies = re.findall(r"Top1_Acc_Exp/eval_phase/test_stream/Task\d+/Exp\d+ = ([\d.]+)", output)
    assert len(accuracies) == 5
    assert min(map(float, accuracies)) > 0.97, f"the page says about 98% or more: {accuracies}"


def _succeeds(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_notebook_shows_what_it_says(monkeypatch: pytest.MonkeyPatch):
    """Cell by cell in one namespace; `make docs` executes it in Jupyter."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = json.loads((ROOT / "docs/fisher_of_a_digits_classifier.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert set(names["fisher"]["exact"].paths.values()) == {"rule"}
    assert all(result.spearman > 0.95 for result in names["compared"].values()), names["compared"]
    assert names["compared"]["batched"].ratio < 0.01
    pixels = names["by_pixel"]
    assert pixels[:, [0, 7]].mean() < pixels[:, 2:6].mean() / 10, "the edge does not matter"
    picture = names["picture"]
    assert picture.actual[2] == pytest.approx(picture.first_order[2] + picture.hessian[2], abs=0.001)
    assert picture.share["diagonal"][-1] < 0.5
    assert picture.share["factors"][-1] > 1.5
    assert picture.actual[-1] > 100 * picture.gauss_newton[-1]


# ------------------------------------------------------------------------------ the study


def test_the_guides_protocol_is_valid(tmp_path: Path):
    protocol, published = blocks("docs/protocols.md", "toml")
    (tmp_path / "mine.toml").write_text(f"{protocol}\n{published.replace('ewc.task', 'none.task')}", encoding="utf-8")
    result = CliRunner().invoke(app, ["show", str(tmp_path / "mine.toml")])
    assert result.exit_code == 0, result.output


def _commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        lines = "\n".join(blocks(page, "sh")).splitlines() + re.findall(
            r"`(clreg-study [^`]*)`", (ROOT / page).read_text(encoding="utf-8")
        )
        found += [(page, line.split("  #")[0].split(" #")[0]) for line in lines if line.startswith("clreg-study")]
    return found


@pytest.mark.parametrize(("page", "line"), _commands())
def test_every_command_and_flag_exists(page: str, line: str):
    _, name, *arguments = shlex.split(line.replace("…", ""))
    commands = typer.main.get_command(app).commands
    assert name in commands, f"{page}: {line}"
    known = {flag for parameter in commands[name].params for flag in parameter.opts}
    unknown = [a for a in arguments if a.startswith("--") and a not in known]
    assert not unknown, f"{page}: {line}: no {unknown}; there is {sorted(known)}"


def test_every_protocol_is_listed():
    listed = CliRunner().invoke(app, ["list"]).output
    names = set(re.findall(r"^([a-z][\w-]+):", listed, re.MULTILINE))
    assert names
    table = (ROOT / "docs/running_a_study.md").read_text(encoding="utf-8")
    shown = set()
    for entry in re.findall(r"`([a-z][^`\s]*)`", table.partition("## Protocols")[2].partition("\n## ")[0]):
        stem, _, choices = entry.partition("{")
        shown |= {stem + choice for choice in choices.rstrip("}").split(",")} if choices else {entry}
    assert shown == names, f"missing: {sorted(names - shown)}; no protocol: {sorted(shown - names)}"


# --------------------------------------------------------------------------- text and links


@pytest.mark.parametrize("kind", DIFFERENCES, ids=lambda kind: kind.__name__)
def test_every_difference_from_avalanche_is_listed(kind: type):
    page = _plain((ROOT / "docs/from_avalanche.md").read_text(encoding="utf-8"))
    section = " " + page.partition(f"### {kind.__name__} ")[2].partition(" ## ")[0].partition(" ### ")[0]
    want = [_plain(difference) for difference in DIFFERENCES[kind]]
    assert [item.strip() for item in section.split(" - ")[1:]] == want


def _plain(text: str) -> str:
    return " ".join(text.replace("`", "").split())


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links_within_the_repository_lead_somewhere(page: str):
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.exists(), f"{page}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, f"{page}: {link}"
