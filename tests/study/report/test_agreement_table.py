"""Agreement of importances in a report."""

import pytest

from study.campaign.strength_search import tuning_runs
from study.protocol.schema import Protocol
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
from tests.study.report.synthetic import TEXT, all_records, record, toy, written


def alike(
    method: str,
    seed: int,
    spearman: float,
    ratio: float = 0.25,
    trace: float | None = None,
    protocol: Protocol | None = None,
) -> ImportanceAgreement:
    return ImportanceAgreement(
        scenario="class",
        seed=seed,
        experience=0,
        method=method,
        settings=settings_of(protocol or toy(), method),
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
        trace=trace,
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
    assert found["trace over exact"] == "0.38 [0.25, 0.5]"
    assert row(tables, caption, "joint")["rank correlation (Spearman)"] == "−0.500"


FISHERS = """
exact = { kind = "online_ewc", fisher = "exact" }
sample = { kind = "online_ewc", fisher = "sample" }
batched = { kind = "online_ewc", fisher = "batched" }
other = { kind = "online_ewc", fisher = "exact", gamma = 0.5 }
"""
GRID = [0.1, 1, 10, 100]


def of_fishers() -> Protocol:
    """The toy with three Fishers, and a method that differs from them in γ too, all searched over one grid."""
    text = TEXT.partition("[[published]]")[0].replace("[methods]\n", f"[methods]{FISHERS}")
    names = [line.split()[0] for line in FISHERS.split("\n") if line]
    strengths = "".join(f'{name} = {{ task = "tuned", class = "tuned" }}\n' for name in names)
    return toy(
        text.replace("[strength]\n", f"[strength]\n{strengths}")
        + "".join(f"{name}.strength = {GRID}\n" for name in names)
    )


@pytest.mark.parametrize(
    ("chosen", "product", "said"),
    [
        ((1, 10, 100), "0.5", "for 1 of 2 other variants, not for `sample`"),
        ((10, 100, 100), "0.05", "for 0 of 2 other variants, not for `sample` and `batched`"),
        ((0.1, 0.1, 100), "5", "for 2 of 2 other variants"),
    ],
)
def test_lambda_times_the_trace_is_that_of_the_exact_fisher_or_not(tmp_path, without_figures, chosen, product, said):
    """Within a step of the grid, a factor of 10."""
    protocol, strengths = of_fishers(), dict(zip(("exact", "sample", "batched"), chosen, strict=True))
    # the traces of sample are 4.5 and 3, 7.5 in all, of 2 and 4, 6 in all
    ratios = {"exact": (1.0, 1.0), "sample": (2.25, 0.75), "batched": (0.005, 0.005), "other": (0.5, 0.5)}
    rows = [
        alike(method, seed, 0.5, ratio, trace=ratio * (2 + 2 * seed), protocol=protocol)
        for method, by_seed in ratios.items()
        for seed, ratio in enumerate(by_seed)
    ]
    write_agreement(rows, tmp_path / AGREEMENT_FILE)
    searched = []
    for run in tuning_runs("toy", protocol, protocol.scenarios, list(ratios)):
        accuracy = [[0.75 if run.strength == strengths.get(run.label) else 0.5] * 2] * 2
        searched.append(record(protocol, "naive", accuracy=accuracy, run=dict(run)))
    runs = [record(protocol, "naive", seed=seed) for seed in range(4)]
    written(tmp_path, runs, searched, protocol)
    tables = markdown_tables(tmp_path)
    caption = "Class-incremental: cost of an importance, and its agreement with the exact Fisher"
    found = {method: row(tables, caption, method) for method in ratios}
    assert [cells["trace over exact"] for cells in found.values()] == ["1", "1.2 [0.75, 2.2]", "0.005", "0.5"]
    assert found["exact"]["λ · trace over exact"] == "1"
    assert found["batched"]["λ · trace over exact"] == product
    assert found["other"]["λ · trace over exact"] == "–"
    text = (tmp_path / "README.md").read_text()
    assert "Trace of the exact Fisher: 3 [2, 4]. Trace over exact: of the sums" in text
    assert f"λ · trace lies within one step of the grid, a factor of 10, {said}." in text


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


def test_a_file_of_version_0_1_has_no_trace(tmp_path):
    path = tmp_path / AGREEMENT_FILE
    write_agreement([alike("ewc", 0, 0.625)], path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].endswith(",trace")
    old = "".join(f"{line.rpartition(',')[0]}\n" for line in lines)
    path.write_text(old, encoding="utf-8")
    rows = read_agreement(path)
    assert [row.trace for row in rows] == [None]
    write_agreement([*rows, alike("ewc", 1, 0.5, trace=2.0)], path)
    assert [row.trace for row in read_agreement(path)] == [None, 2.0]
