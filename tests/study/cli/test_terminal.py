"""Nothing is cut off, at any width, and without a terminal a table is Markdown."""

import json
from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from study.campaign.progress import StudyProgress
from study.cli.app import app
from study.cli.terminal import print_table
from study.records.store import RunStore

CELLS = ["replay-matched-uint8", "[not, markup]", "0.125", "a|b", "eight words are as many as fit here"]


def table() -> Table:
    made = Table("method", "options", "average accuracy %", "other", "comment", title="a title", caption="a caption")
    made.add_row(*map(Text, CELLS))
    return made


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int | None) -> str:
    if width is not None:
        for name, value in {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": str(width), "TERM": "xterm"}.items():
            monkeypatch.setenv(name, value)
    else:
        monkeypatch.delenv("FORCE_COLOR", raising=False)
    print_table(table())
    return Text.from_ansi(capsys.readouterr().out).plain


@pytest.mark.parametrize("width", [200, 80, 79, 60, 40])
def test_a_terminal_shows_every_word_whole_and_no_line_is_too_long(capsys, monkeypatch, width):
    shown = printed(capsys, monkeypatch, width)
    for word in " ".join(["a title a caption method options accuracy", *CELLS]).replace("|", " ").split():
        assert word in shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    assert ("each row is a list" in " ".join(shown.split())) == (width < 70), shown


def test_without_a_terminal_it_is_markdown_of_any_width(capsys, monkeypatch):
    lines = printed(capsys, monkeypatch, None).splitlines()
    assert [line for line in lines if line] == [
        "a title:",
        "| method | options | average accuracy % | other | comment |",
        "| :--- | :--- | :--- | :--- | :--- |",
        f"| {' | '.join(CELLS)} |".replace("a|b", r"a\|b"),
        "a caption",
    ]


def test_the_progress_of_thousands_of_runs_fits_into_80_columns(tmp_path):
    to = Console(width=80, file=StringIO(), force_terminal=True)
    progress = StudyProgress(to, 1200, 16, RunStore(tmp_path))
    progress.began -= 60  # clocks of files are coarse
    progress.store.under_way.mkdir()
    (progress.store.under_way / "x.json").write_text(
        json.dumps({"run": "class-incremental replay-matched-uint8, seed 9", "experiences": 1, "of": 5, "accuracy": 1})
    )
    to.print(progress._picture())
    shown = Text.from_ansi(to.file.getvalue()).plain
    assert "0 of 1200 runs done, 16 running 0 failed" in shown
    assert "class-incremental replay-matched-uint8, seed 9" in shown
    assert "100.0% so far" in shown
    assert "…" not in shown
    assert "left: -:--:--" in shown


def test_a_packaged_protocol_is_shown_whole_at_80_columns():
    arguments = ["show", "definitions-split-fmnist"]
    environment = {"FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "xterm"}
    shown = Text.from_ansi(CliRunner().invoke(app, arguments, env=environment).stdout).plain
    assert "…" not in shown
    assert "online_ewc-0.9" in shown
    assert max(map(len, shown.splitlines())) <= 80
