"""The size of the importance in a report."""

from tests.study.report.reading import markdown_tables, row
from tests.study.report.synthetic import all_records, record, toy, written

CAPTION = "Class-incremental: ΣΩ after the first and the last experience"


def test_a_report_shows_how_the_importance_grows(tmp_path, without_figures):
    protocol = toy()
    others = [other for other in all_records(protocol) if other.run.label != "ewc"]
    sizes = ([1.0, 4.0], [3.0, 8.0])
    mine = [record(protocol, "ewc", seed=seed, importance=size) for seed, size in enumerate(sizes)]
    written(tmp_path, [*others, *mine])
    tables = markdown_tables(tmp_path)
    found = row(tables, CAPTION, "ewc")
    weight = 6 * protocol.strength_of("ewc", "class")
    assert found["after 1"] == "2 [1, 3]"
    assert found["after 2"] == "6 [4, 8]"
    assert found["growth"] == "3"
    assert float(found["λ · ΣΩ"]) == weight
    assert len(tables[CAPTION]) == 2, "the heading and the one method that has an importance"


def test_records_of_earlier_versions_have_no_such_table(tmp_path, without_figures):
    written(tmp_path, all_records(toy()))
    assert CAPTION not in markdown_tables(tmp_path)
