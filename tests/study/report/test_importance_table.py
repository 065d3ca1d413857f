"""The size of the importance in a report."""

from collections.abc import Sequence

import pytest

from tests.study.report.reading import markdown_tables, row
from tests.study.report.synthetic import all_records, record, toy, written

CAPTION = "Class-incremental: ΣΩ after the first and the last experience"


def row_of_ewc(folder, *sizes: Sequence[float]) -> dict[str, str]:
    """The row of ``ewc`` where its runs have these sizes of the importance, and no other method has any."""
    protocol = toy()
    others = [other for other in all_records(protocol) if other.run.label != "ewc"]
    mine = [record(protocol, "ewc", seed=seed, importance=list(size)) for seed, size in enumerate(sizes)]
    written(folder, [*others, *mine])
    tables = markdown_tables(folder)
    assert [name for name, *_ in tables[CAPTION][1:]] == ["ewc"]
    return row(tables, CAPTION, "ewc")


def test_a_report_shows_how_the_importance_grows(tmp_path, without_figures):
    found = row_of_ewc(tmp_path, [1.0, 4.0], [3.0, 8.0])
    assert (found["ΣΩ, first"], found["ΣΩ, last of 2"], found["growth"]) == ("2 [1, 3]", "6 [4, 8]", "3")
    assert float(found["λ · ΣΩ"]) == 6 * toy().strength_of("ewc", "class")
    assert found["seeds"] == "2"


def test_records_of_earlier_versions_are_left_out(tmp_path, without_figures):
    found = row_of_ewc(tmp_path, [], [3.0, 9.0])
    assert (found["ΣΩ, first"], found["growth"], found["seeds"]) == ("3", "3", "1")


@pytest.mark.parametrize("first", [0.0, -0.001])
def test_there_is_no_growth_from_nothing_or_less(tmp_path, without_figures, first):
    found = row_of_ewc(tmp_path, [first, 4.0])
    assert found.get("growth", "–") == "–"
    assert found["ΣΩ, last of 2"] == "4"


def test_without_such_records_there_is_no_table(tmp_path, without_figures):
    written(tmp_path, all_records(toy()))
    assert CAPTION not in markdown_tables(tmp_path)
