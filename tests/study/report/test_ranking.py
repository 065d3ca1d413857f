"""Methods ranked over several studies."""

import re
import shlex
from pathlib import Path

import pytest
from scipy import stats
from typer.testing import CliRunner

from study.cli.app import app
from study.errors import StudyError
from study.records.store import ARCHIVE, read_archive
from study.report.study_ranking import Study, rank_studies
from study.run.metrics import average_accuracy
from tests.study.report.reading import markdown_tables
from tests.study.report.synthetic import all_records, toy

HSU = Path(__file__).parents[3] / "reports" / "hsu2018-split-mnist"
SCENARIOS = ("task", "domain", "class")


def without(study: Study, *methods: str) -> Study:
    return study[0], [record for record in study[1] if record.run.label not in methods]


def test_blocks_are_the_scenarios_of_all_studies_and_methods_those_that_all_share():
    studies = [without(("a", all_records(toy())), "naive"), without(("b", all_records(toy(), seeds=1)), "ewc")]
    table = rank_studies(studies).ranks
    assert [row[0].text for row in table.rows] == ["joint", "replay-2", "online_ewc"]
    assert table.rows[0][1].text == "1.00"
    text = " ".join(table.notes)
    assert "Over a, class; a, task; b, class; b, task." in text
    assert "1 benchmark (split_digits): scenarios of one benchmark are not independent" in text


def test_only_the_methods_that_are_named_are_ranked():
    studies = [("a", all_records(toy())), ("b", all_records(toy(), seeds=1))]
    named = ["joint", "ewc", "naive"]
    ranking = rank_studies(studies, named)
    others = [method for method in toy().methods if method not in named]
    assert ranking == rank_studies([without(study, *others) for study in studies])
    assert {row[0].text for row in ranking.ranks.rows} == set(named)
    assert [row[1].text for row in ranking.accuracies.rows] == ["4", "4", "1", "1"]


def test_a_named_method_that_did_not_finish_somewhere_is_not_left_out():
    studies = [("a", all_records(toy())), without(("b", all_records(toy())), "ewc")]
    with pytest.raises(StudyError, match="'ewc' has no finished run in b, class; b, task"):
        rank_studies(studies, ["naive", "ewc", "joint", "replay-2"])


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        (("naive", "ewc", "joint"), r"a and b: 4 scenarios, and 2 methods \(online_ewc and replay-2\)"),
        (("naive", "ewc", "joint", "online_ewc", "replay-2"), "b has no finished run"),
    ],
)
def test_too_little_in_common_is_an_error_that_says_what_there_is(left_out, message):
    with pytest.raises(StudyError, match=message):
        rank_studies([("a", all_records(toy())), without(("b", all_records(toy())), *left_out)])


def test_one_name_for_two_kinds_of_method_is_refused():
    as_l2 = [
        r.model_copy(update={"run": r.run.model_copy(update={"label": "ewc"})})
        for r in all_records(toy())
        if r.run.label == "joint"
    ]
    with pytest.raises(StudyError, match="'ewc' is of kind 'joint' in b and 'ewc' in a"):
        rank_studies([("a", all_records(toy())), ("b", as_l2)])


def test_of_three_real_studies_the_command_says_friedmans_test_and_writes_a_page(tmp_path):
    folders = [str(HSU / scenario) for scenario in SCENARIOS]
    command = ["compare", *folders, "--ranks", str(tmp_path / "ranks")]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    means = []
    for scenario in SCENARIOS:
        found: dict[str, list[float]] = {}
        for record in read_archive(HSU / scenario / ARCHIVE):
            found.setdefault(record.run.label, []).append(average_accuracy(record.accuracy))
        means.append({method: sum(values) / len(values) for method, values in found.items()})
    chi2, p = stats.friedmanchisquare(*([block[method] for block in means] for method in means[0]))
    text = " ".join(result.output.split())
    assert f"Friedman's χ² = {chi2:.2f}, p = {p:.3f}" in text
    ranks = [stats.rankdata([-block[method] for method in means[0]]) for block in means]
    for index, method in enumerate(means[0]):
        average = sum(block[index] for block in ranks) / len(ranks)
        assert re.search(rf" {method} .* {average:.2f}", result.output), (method, average)
    assert "critical difference" in (tmp_path / "ranks" / "figures" / "ranks.svg").read_text()
    page = (tmp_path / "ranks" / "README.md").read_text()
    tables = markdown_tables(tmp_path / "ranks")
    for folder, block in zip(folders, means, strict=True):
        (cells,) = [line for line in tables["Average accuracy %, mean over seeds"][1:] if line[0].startswith(folder)]
        shown = dict(zip(tables["Average accuracy %, mean over seeds"][0], cells, strict=True))
        assert shown.pop("seeds") == "12"
        assert shown == {"study, scenario": cells[0]} | {m: f"{100 * accuracy:.2f}" for m, accuracy in block.items()}
    assert f"\n{shlex.join(['clreg-study', *command])}\n" in page
    assert f"p = {p:.3f}." in page.split("\n\n")[1]


def test_the_page_of_something_else_is_kept(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    command = ["compare", *(str(HSU / scenario) for scenario in SCENARIOS), "--ranks", str(tmp_path)]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, "holds the page of something else" in result.stderr) == (2, True), result.output
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("studies", "more", "message"),
    [
        (["task", "domain", "class"], [], "3 studies to compare; allowed: two, or any number with --ranks FOLDER"),
        (["task", "domain", "class:ewc"], ["--ranks", "x"], "allowed: whole studies"),
        (
            ["task", "class"],
            ["--ranks", "x", "--methods", "ewk,si"],
            "--methods: unknown name 'ewk'; did you mean 'ewc'?",
        ),
        (["task", "class"], ["--methods", "ewc"], "--methods ewc goes with --ranks"),
    ],
)
def test_what_cannot_be_compared_is_said(studies, more, message):
    result = CliRunner().invoke(app, ["compare", *(str(HSU / study) for study in studies), *more])
    assert (result.exit_code, message in result.stderr) == (2, True), result.output
