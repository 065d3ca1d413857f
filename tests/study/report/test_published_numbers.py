"""Published numbers in a report: the margin of each, and which of them count."""

from pathlib import Path

import pytest

from study.protocol.load import load_protocol, protocol_names
from study.report.analysis import analyse
from study.report.comparisons import MARGIN_RULE, NO_RUN, VERDICT_MEANINGS, against_published, published_margin
from study.report.overview import write_overview
from study.report.selection import select
from study.statistics import compare_with_published
from tests.study.report.reading import markdown_tables, row
from tests.study.report.synthetic import TEXT, all_records, toy, written

PUBLISHED = "Class-incremental: published and our average accuracy"
FIRST = "Published and ours"
PAIRS = "Method against method: differences of average accuracy, in percentage points"
CONTEXT = TEXT.replace("n = 10\n", 'n = 10\ncontext = ["ewc"]\n')
assert CONTEXT != TEXT


@pytest.mark.parametrize(
    ("name", "scenario", "method", "margin"),
    [
        ("hsu2018-split-mnist-task", "task", "ewc", 1.5),  # 97.70, none 93.46
        ("hsu2018-split-mnist-class", "class", "l2", 1.405),  # 22.52, none 19.71
        ("hsu2018-split-mnist-class", "class", "ewc", 0.045),  # 19.80
        ("hsu2018-split-mnist-class", "class", "mas", 0.095),  # 19.52, below none
        ("hsu2018-split-mnist-class", "class", "naive", 1.5),
        ("hsu2018-split-mnist-class", "class", "joint", 1.5),
        ("hsu2018-split-mnist-domain", "domain", "online_ewc", 1.085),  # 57.33, none 55.16
        ("vandeven2018-split-mnist-domain", "domain", "ewc-2018", 0.235),  # 57.80, none 57.33
        ("vandeven2018-split-mnist-class", "class", "ewc-2018", 0.0),  # 19.90, as none
        ("vandeven2018-split-mnist-class", "class", "none", 1.5),
        ("vandeven2018-split-mnist-class", "class", "ewc-2019", 0.055),  # 20.01 of 2019, none 19.90 of 2018
        ("zenke2017-permuted-mnist", "domain", "si-c0.1", 1.5),  # no number of none
    ],
)
def test_the_margin_is_one_point_five_or_half_of_the_published_distance_from_none(name, scenario, method, margin):
    protocol = load_protocol(name)
    (table,) = (table for table in protocol.published if method in table.results)
    assert published_margin(protocol, table, scenario, method) == pytest.approx(margin)


def test_the_number_of_none_is_that_of_the_same_table_if_it_has_one():
    second = TEXT.replace(
        "replay-2 = { class = { mean = 79.0 } }", "replay-2.class.mean = 79.0\nnaive.class.mean = 78.0"
    )
    protocol = toy(second)
    assert published_margin(protocol, protocol.published[1], "class", "replay-2") == 0.5


@pytest.mark.parametrize("name", [name for name in protocol_names() if "vandeven2018" in name or "hsu2018" in name])
def test_what_is_as_good_as_no_penalty_reproduces_no_number_of_a_penalty(name):
    protocol = load_protocol(name)
    scenario = protocol.scenarios[0]
    naive = {method for method, settings in protocol.methods.items() if settings.kind == "naive"}
    for table in protocol.published:
        (none,) = naive & protocol.published[0].results.keys()
        at_none = protocol.published[0].results[none][scenario].mean
        for method in table.results.keys() - naive:
            number, margin = table.results[method][scenario], published_margin(protocol, table, scenario, method)
            ours = [at_none - 0.001, at_none, at_none + 0.001]
            found = compare_with_published(ours, number.mean, number.spread, table.spread, table.n, margin)
            assert found.verdict != "reproduced", (method, found)


def verdicts(folder: Path) -> dict[str, str]:
    return {cells[0]: cells[1] for cells in markdown_tables(folder)[FIRST][1:]}


def test_context_is_shown_and_not_counted(tmp_path, without_figures):
    counted, context = (tmp_path / "reports" / name for name in ("counted", "context"))
    for folder, text in ((counted, TEXT), (context, CONTEXT)):
        written(folder, all_records(toy()), protocol=toy(text))
    full, shown = (row(markdown_tables(folder), PUBLISHED, "ewc") for folder in (counted, context))
    assert shown.pop("limited by") == "context, not counted"
    assert full.pop("limited by") == ""
    assert full == shown
    assert "ewc" in verdicts(counted)
    assert "ewc" not in verdicts(context)
    assert "; published numbers: 2 inconclusive, 1 reproduced, 1 below, 1 above." in (counted / "README.md").read_text()
    assert "; published numbers: 1 reproduced, 1 below, 1 above." in (context / "README.md").read_text()
    write_overview(tmp_path / "reports")
    headings, *rows = markdown_tables(tmp_path / "reports")["Published numbers by verdict"]
    assert [cells[headings.index("inconclusive")] for cells in rows] == ["–", "2"]


def test_where_all_is_context_the_first_screen_has_pairs(tmp_path, without_figures):
    every = CONTEXT.replace('["ewc"]', '["naive", "ewc", "joint"]').replace(
        'spread = "none"\n', 'spread = "none"\ncontext = ["replay-2"]\n'
    )
    folder = written(tmp_path / "toy", all_records(toy()), protocol=toy(every))
    assert FIRST not in markdown_tables(folder)
    assert PAIRS in markdown_tables(folder)
    assert analyse(select("toy", toy(every), all_records(toy()), [])).verdicts == {}
    page = write_overview(tmp_path).read_text()
    assert "**Method against method**" in page
    assert "published" not in page


@pytest.mark.parametrize("named", [False, True])
def test_the_first_screen_has_published_numbers_and_the_pairs_that_the_protocol_names(tmp_path, without_figures, named):
    """Other pairs are below, and the two together are eight rows at most."""
    family = '[comparisons]\nbaselines = ["ewc", "naive"]\n\n[model]' if named else "[model]"
    folder = written(tmp_path / "toy", all_records(toy()), protocol=toy(TEXT.replace("[model]", family)))
    found = markdown_tables(folder)
    rows = {caption: len(found[caption]) - 1 for caption in (FIRST, PAIRS) if caption in found}
    assert rows == ({FIRST: 3, PAIRS: 5} if named else {FIRST: 5})


@pytest.mark.parametrize("methods", [{*toy().methods}, {"naive", "online_ewc"}, {"online_ewc"}, {"naive"}])
def test_the_first_screen_explains_what_it_shows_and_nothing_else(tmp_path, without_figures, methods):
    family = '[comparisons]\nbaselines = ["naive"]\nmethods = ["online_ewc"]\nmargin = 2\n\n[model]'
    records = [each for each in all_records(toy()) if each.run.label in methods]
    folder = written(tmp_path / "toy", records, protocol=toy(TEXT.replace("[model]", family)))
    screen, found = (folder / "README.md").read_text().partition("<details>")[0], markdown_tables(folder)
    headings, *rows = found[FIRST]
    shown = {cells[headings.index("verdict")] for cells in rows}
    assert {verdict for verdict in VERDICT_MEANINGS if f"`{verdict}`: " in screen} == shown - {NO_RUN}
    assert (MARGIN_RULE in screen) == ("margin" in headings) == (shown != {NO_RUN})
    columns = found[PAIRS][0] if {"naive", "online_ewc"} <= methods else []
    assert ("p (equivalence): " in screen) == ("p (equivalence)" in columns)
    assert ("Detectable difference: " in screen) == ("detectable difference" in columns)
    untested = methods - {"naive", "online_ewc"} if columns else set()
    after = screen.partition("Shown without a test: ")[2]
    assert {name for name in toy().methods if f"`{name}`" in after} == untested
    assert "4 seeds; " in screen


def test_what_is_not_testable_is_a_verdict_of_its_own_and_no_failure(tmp_path, without_figures):
    text = TEXT.replace("mean = 61.5, spread = 2.0", "mean = 91.5, spread = 30.0")
    folder = written(tmp_path / "reports" / "toy", all_records(toy()), protocol=toy(text))
    found = row(markdown_tables(folder), PUBLISHED, "ewc")
    assert (found["verdict"], found["p (Welch)"] < "0.05") == ("not testable", True), found
    assert "1 not testable" in (folder / "README.md").read_text()
    assert 'class="mark not' not in (folder / "index.html").read_text()
    of_toy = markdown_tables(write_overview(tmp_path / "reports").parent)["Published numbers by verdict"]
    counts = dict(zip(*of_toy, strict=True))
    assert [counts[verdict] for verdict in ("not testable", "below", "above")] == ["1", "1", "1"]


def test_the_smallest_margin_that_would_pass_is_beside_the_margin(tmp_path, without_figures):
    folder = written(tmp_path, all_records(toy()))
    (ewc,) = (
        each
        for each in against_published(toy(), select("toy", toy(), all_records(toy()), []).results)
        if (each.scenario, each.method) == ("class", "ewc")
    )
    found = row(markdown_tables(folder), PUBLISHED, "ewc")
    assert (found["margin"], found["smallest margin that passes"]) == ("1.5", f"{ewc.comparison.smallest_margin:.2f}")
    assert ewc.comparison.smallest_margin > 1.5, "it is inconclusive"
