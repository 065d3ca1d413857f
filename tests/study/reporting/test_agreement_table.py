"""How alike importances are, as a report shows it."""

import pytest

from study.alike import AGREEMENT, AgreementError, Alike, parse_agreement, write_agreement
from tests.study.reporting.reading import markdown_tables, row
from tests.study.reporting.synthetic import all_records, toy, written


def alike(method: str, seed: int, spearman: float, ratio: float = 0.25) -> Alike:
    return Alike(
        scenario="class",
        seed=seed,
        experience=0,
        method=method,
        seconds=1.0,
        epochs=0.5 + seed,
        spearman=spearman,
        pearson=0.5,
        cosine=0.25,
        ratio=ratio,
        entries=10,
    )


def test_a_report_shows_means_with_the_least_and_the_largest(tmp_path, without_figures):
    write_agreement([alike("ewc", 0, 0.5), alike("ewc", 1, 0.75, 0.5), alike("joint", 0, -0.5)], tmp_path / AGREEMENT)
    written(tmp_path, all_records(toy()))
    tables = markdown_tables(tmp_path)
    caption = "Class-incremental: cost of an importance, and its likeness to the exact Fisher"
    found = row(tables, caption, "ewc")
    assert found["rank correlation (Spearman)"] == "0.625 [0.500, 0.750]"
    assert (found["correlation (Pearson)"], found["cost, epochs"]) == ("0.500", "1.00")
    assert found["size over exact"] == "0.38 [0.25, 0.5]"
    assert row(tables, caption, "joint")["rank correlation (Spearman)"] == "−0.500"


def test_a_file_of_something_else_is_refused(tmp_path):
    with pytest.raises(AgreementError, match="spearman = 'x'"):
        parse_agreement(
            (",".join(Alike.model_fields) + "\ntask,0,0,ewc,1,1,x,1,1,1,5\n").encode(), tmp_path / AGREEMENT
        )
    with pytest.raises(AgreementError, match="is not CSV"):
        parse_agreement(b"\xff\xfe", tmp_path / AGREEMENT)
