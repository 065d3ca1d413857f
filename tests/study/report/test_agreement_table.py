"""Agreement of importances in a report."""

import pytest

from study.records.importance_agreement import (
    AGREEMENT_FILE,
    AgreementError,
    ImportanceAgreement,
    read_agreement,
    settings_of,
    write_agreement,
)
from study.report.attachments import read_attachments
from tests.study.report.reading import markdown_tables, row
from tests.study.report.synthetic import all_records, toy, written


def alike(method: str, seed: int, spearman: float, ratio: float = 0.25) -> ImportanceAgreement:
    return ImportanceAgreement(
        scenario="class",
        seed=seed,
        experience=0,
        method=method,
        settings=settings_of(toy(), method),
        torch="2.8.0",
        processor="A CPU",
        commit="",
        seconds=1.0,
        epochs=0.5 + seed,
        spearman=spearman,
        pearson=0.5,
        cosine=0.25,
        ratio=ratio,
        entries=10,
    )


def test_a_report_shows_means_with_the_least_and_the_largest(tmp_path, without_figures):
    write_agreement(
        [alike("ewc", 0, 0.5), alike("ewc", 1, 0.75, 0.5), alike("joint", 0, -0.5)], tmp_path / AGREEMENT_FILE
    )
    written(tmp_path, all_records(toy()))
    tables = markdown_tables(tmp_path)
    caption = "Class-incremental: cost of an importance, and its agreement with the exact Fisher"
    found = row(tables, caption, "ewc")
    assert found["rank correlation (Spearman)"] == "0.625 [0.500, 0.750]"
    assert (found["correlation (Pearson)"], found["cost, epochs"]) == ("0.500", "1.00")
    assert found["size over exact"] == "0.38 [0.25, 0.5]"
    assert row(tables, caption, "joint")["rank correlation (Spearman)"] == "−0.500"


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / AGREEMENT_FILE
    write_agreement([alike("ewc", 0, 0.625)], path)
    good = path.read_text(encoding="utf-8")
    for bad in ("x", "nan", "1.5"):
        path.write_text(good.replace("0.625", bad), encoding="utf-8")
        with pytest.raises(AgreementError, match=f"spearman = '{bad}'"):
            read_agreement(path)
    write_agreement([alike("ewc", 0, 0.625)] * 2, path)
    with pytest.raises(AgreementError, match=r"has 2 rows of .*'ewc'.*; allowed: one"):
        read_agreement(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(AgreementError, match="is not CSV"):
        read_agreement(path)


def test_a_file_of_another_protocol_is_refused(tmp_path):
    write_agreement([alike("ewc", 0, 0.625)], tmp_path / AGREEMENT_FILE)
    read_attachments([tmp_path], toy())
    other = toy().model_copy(update={"training": toy().training.model_copy(update={"batch_size": 16})})
    without = toy().model_copy(update={"methods": {"naive": toy().methods["naive"]}})
    for protocol in (other, without):
        with pytest.raises(AgreementError, match="the settings that ewc was measured with are none of the protocol's"):
            read_attachments([tmp_path], protocol)


def test_what_was_measured_for_the_records_comes_before_what_the_report_has(tmp_path):
    for folder, spearman in (("report", 0.25), ("records", 0.75)):
        (tmp_path / folder).mkdir()
        write_agreement([alike("ewc", 0, spearman)], tmp_path / folder / AGREEMENT_FILE)
    attachments = read_attachments([tmp_path / "report", tmp_path / "records"], toy())
    assert [row.spearman for row in attachments.agreement] == [0.75]
