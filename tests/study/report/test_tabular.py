"""The records as CSV and Parquet."""

import csv

import pandas as pd
import pytest

from study.run.metrics import average_accuracy
from tests.study.report.synthetic import all_records, failed, toy, written


@pytest.fixture
def folder(tmp_path, without_figures):
    protocol = toy()
    return written(tmp_path, [*all_records(protocol, 2), failed(protocol, "ewc", 2)])


def test_csv_and_parquet_hold_the_same_numbers_to_the_last_bit(folder):
    for name in ("results", "accuracy"):
        with (folder / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        parquet = pd.read_parquet(folder / f"{name}.parquet")
        assert list(rows[0]) == list(parquet.columns)
        assert len(rows) == len(parquet)
        for column in parquet.columns:
            for row, value in zip(rows, parquet[column], strict=True):
                if pd.isna(value):
                    assert row[column] == ""
                else:
                    assert type(value)(row[column]) == value, column


def test_a_row_a_run_with_what_the_record_says(folder):
    table = pd.read_parquet(folder / "results.parquet").set_index(["scenario", "method", "seed"])
    assert len(table) == 2 * 5 * 2 + 1
    ewc = table.loc["class", "ewc", 1]
    assert ewc["average_accuracy"] == average_accuracy([[0.98, 0.0], [0.44, 0.78]])
    assert ewc["forgetting"] == pytest.approx(0.98 - 0.44)
    assert ewc["backward_transfer"] == pytest.approx(0.44 - 0.98)
    assert ewc["learning_accuracy"] == pytest.approx((0.98 + 0.78) / 2)
    assert (ewc["strength"], ewc["kind"], ewc["outcome"], ewc["version_torch"]) == (100, "ewc", "finished", "2.8.0")
    assert (ewc["seconds_training"], ewc["seconds_consolidation"], ewc["seconds_evaluation"]) == (4.0, 0.5, 1.0)
    assert ewc["seconds_total"] == 5.5
    assert (ewc["peak_memory_bytes"], ewc["plugin_memory_bytes"]) == (601 * 2**20, 2 * 2**10)
    assert ewc["plugin_scratch_bytes"] == 5 * 2**10
    assert pd.isna(table.loc["class", "joint", 0]["forgetting"])
    assert table.loc["class", "replay-2", 0]["memory_examples"] == 32


def test_a_run_that_did_not_finish_has_no_metrics_and_keeps_the_rows_it_came_to(folder):
    runs = pd.read_parquet(folder / "results.parquet").set_index("outcome").loc["failed"]
    assert pd.isna(runs["average_accuracy"])
    assert runs["error"] == "RuntimeError: x_1 | <y> & 50% of {z}"
    entries = pd.read_parquet(folder / "accuracy.parquet")
    partial = entries[entries["outcome"] == "failed"]
    assert partial[["after", "experience", "accuracy"]].to_numpy().tolist() == [[0, 0, 0.123], [0, 1, 0.456]]
    whole = entries[(entries["id"] != runs["id"]) & (entries["method"] != "joint")]
    assert len(whole) == 2 * 4 * 2 * 4
