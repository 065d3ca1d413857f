"""The reports that are committed say what their records say: each is written again from them, byte for byte."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from study.cli.app import app
from study.protocol.load import load_protocol, protocol_names
from study.records.store import ARCHIVE, TUNING_ARCHIVE, kept_search, read_archive
from study.report.markdown import to_markdown
from study.report.overview import Reported, compose_overview, reports_below
from study.report.provenance import packaged_name

REPORTS = Path(__file__).parents[1] / "reports"
FOLDERS = sorted(path.parent for path in REPORTS.rglob(ARCHIVE))
RANKINGS = sorted(path.parents[1] for path in REPORTS.rglob("figures/ranks.svg"))


def name_of(folder: Path) -> str:
    """The protocol's, if it is one that comes with the package; else the file next to the report."""
    file = str(folder / "protocol.toml")
    return packaged_name(load_protocol(file)) or file


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(REPORTS).as_posix())
def test_a_report_is_written_again_from_its_own_records_byte_for_byte(folder, tmp_path):
    result = CliRunner().invoke(app, ["report", name_of(folder), "--records", str(folder), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    committed, again = contents(folder), contents(tmp_path)
    assert committed.keys() == again.keys()
    assert [name for name in committed if committed[name] != again[name]] == []


@pytest.mark.parametrize("folder", RANKINGS, ids=lambda folder: folder.relative_to(REPORTS).as_posix())
def test_a_ranking_is_written_again_by_its_own_command_byte_for_byte(folder, tmp_path, monkeypatch):
    again = tmp_path / folder.relative_to(REPORTS.parent)
    shutil.copytree(REPORTS, tmp_path / "reports")
    shutil.rmtree(again)
    monkeypatch.chdir(tmp_path)
    _, *command = shlex.split(re.search(r"```sh\n(.*)\n```", (folder / "README.md").read_text())[1])
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert contents(again) == contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(REPORTS).as_posix())
def test_its_protocol_is_one_that_comes_with_the_package(folder):
    """But for the seeds of a search from before the package's protocols asked for five."""
    protocol = load_protocol(str(folder / "protocol.toml"))
    (shipped,) = (each for each in map(load_protocol, protocol_names()) if each.title == protocol.title)
    if searched := kept_search(folder):
        seeds = sorted({record.run.seed for record in searched})
        shipped = shipped.model_copy(update={"tuning": shipped.tuning.model_copy(update={"seeds": seeds})})
    assert protocol == shipped


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(REPORTS).as_posix())
def test_its_runs_are_of_committed_code_and_did_not_see_the_seeds_of_the_search(folder):
    records = read_archive(folder / ARCHIVE)
    assert all(record.commit and not record.commit.endswith("+") for record in records)
    if (folder / TUNING_ARCHIVE).is_file():
        searched = read_archive(folder / TUNING_ARCHIVE)
        assert {record.run.evaluated_on for record in searched} == {"validation"}
        assert {record.run.seed for record in searched}.isdisjoint({record.run.seed for record in records})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(REPORTS).as_posix())
def test_its_first_screen_is_a_sentence_a_picture_and_at_most_eight_verdicts(folder):
    text = (folder / "README.md").read_text().partition("<details>")[0]
    title, answer = text.split("\n\n")[:2]
    assert title.startswith("# ")
    assert len(answer.split()) <= 25
    pictures = set(re.findall(r"figures/([a-z]+)-[a-z]+.svg", text))
    one_regularizer = folder.name == "fisher-variants"
    assert pictures == ({"lambda"} if one_regularizer else {"accuracy"})
    heads = text.count("\n| :---")
    assert 1 <= text.count("\n| ") - 2 * heads <= 8
    assert heads <= 2


def test_the_overviews_are_those_of_the_reports():
    found = {REPORTS / each.path: each.analysis for each in reports_below(REPORTS)}
    for folder in {REPORTS, *(there.parent for there in found)}:
        below = [
            Reported(there.relative_to(folder).as_posix(), analysis)
            for there, analysis in found.items()
            if there.is_relative_to(folder)
        ]
        assert (folder / "README.md").read_text() == to_markdown(compose_overview(below)), folder
