"""A report on runs that were really trained: Split Digits, cut down to one epoch and two experiences."""

from pathlib import Path

from study.campaign.one_run import perform_and_record
from study.records.store import RunStore
from study.report.write_report import write_report
from study.run.metrics import average_accuracy, forgetting
from study.run.run_environment import RunEnvironment
from tests.study.report.reading import html_tables, markdown_tables, row


def test_the_numbers_of_trained_runs_are_the_reports(protocol, run_of, tmp_path):
    store = RunStore(tmp_path / "runs")
    for method in ("naive", "ewc", "replay-matched", "joint"):
        for seed in (0, 1):
            store.write(perform_and_record(run_of(method, "task", seed), RunEnvironment(Path())))
    records = store.read_all()
    assert all(record.finished for record in records)
    page = write_report("tiny", protocol, records, [], tmp_path / "report").page
    tables = markdown_tables(page.parent)
    assert html_tables(page.parent) == tables
    for method in ("naive", "ewc", "replay-matched", "joint"):
        matrices = [record.accuracy for record in records if record.run.label == method]
        found = row(tables, "Task-incremental: what each method reached", method)
        assert found["average accuracy %"].split()[0] == f"{50 * sum(map(average_accuracy, matrices)):.2f}"
        if method != "joint":
            assert found["forgetting %"].split()[0] == f"{50 * sum(map(forgetting, matrices)):.2f}".replace("-", "−")
    text = (page.parent / "README.md").read_text()
    assert "clreg-study run protocol.toml --seeds 2 --methods naive,ewc,replay-matched,joint --scenario task" in text
    assert records[0].versions["torch"] in text
    assert records[0].hardware.processor in text

    # from its own archive, as `clreg-study report --records <the report>` reads it
    again = write_report("tiny", protocol, RunStore(page.parent).read_all(), [], tmp_path / "again")
    assert again.page.read_bytes() == page.read_bytes()
