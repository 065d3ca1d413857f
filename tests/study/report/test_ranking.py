"""Methods ranked over several studies."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

from study.cli.app import app
from study.errors import StudyError
from study.records.store import ARCHIVE, read_archive
from study.report.study_ranking import Study, rank_studies
from study.run.metrics import average_accuracy
from tests.study.report.synthetic import all_records, toy

HSU = Path(__file__).parents[3] / "reports" / "hsu2018-split-mnist"
SCENARIOS = ("task", "domain", "class")


def without(study: Study, *methods: str) -> Study:
    return study[0], [record for record in study[1] if record.run.label not in methods]


def test_blocks_are_the_scenarios_of_all_studies_and_methods_those_that_all_share():
    studies = [without(("a", all_records(toy())), "naive"), without(("b", all_records(toy(), seeds=1)), "ewc")]
    table, _ = rank_studies(studies)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    lines = [line.split() for line in console.export_text().splitlines()]
    assert [cells[1] for cells in lines if cells[:1] == ["│"]] == ["joint", "replay-2", "online_ewc"]
    assert ["│", "joint", "│", "1.00", "│"] in lines
    text = " ".join(word for cells in lines for word in cells)
    assert "Over a, class; a, task; b, class; b, task." in text
    assert "1 benchmark (split_digits): scenarios of one benchmark are not independent" in text


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


def test_of_three_real_studies_the_command_says_friedmans_test_and_draws_the_figure(tmp_path):
    figure = tmp_path / "ranks.svg"
    folders = [str(HSU / scenario) for scenario in SCENARIOS]
    result = CliRunner().invoke(app, ["compare", *folders, "--ranks", str(figure)], env={"COLUMNS": "200"})
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
    assert "critical difference" in figure.read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "3 studies to compare; allowed: two, or any number with --ranks FILE.svg"),
        (["--ranks", "x.svg"], "allowed: whole studies"),
    ],
)
def test_what_cannot_be_compared_is_said(more, message):
    names = [str(HSU / scenario) for scenario in SCENARIOS]
    names[2] += ":ewc" if more else ""
    result = CliRunner().invoke(app, ["compare", *names, *more])
    assert (result.exit_code, message in result.stderr) == (2, True), result.output
