"""Records as CSV and Parquet: one row for each run, or for each entry of its accuracy matrix."""

import json
import math
from pathlib import Path

import pandas as pd

from study.records.run_record import RunRecord
from study.report.method_results import PHASES, MethodResult
from study.report.selection import Selection
from study.run.metrics import average_accuracy, backward_transfer, forgetting, learning_accuracy

_INTEGERS = ("peak_memory_bytes", "memory_examples")  # that may be missing


def runs_table(selection: Selection) -> pd.DataFrame:
    """One row for each run, by scenario, method and seed.

    Accuracies are in [0, 1] and missing for runs that did not finish; times in seconds, memory in bytes, one column for
    each package's version.
    """
    rows = [_run(result, record) for result in selection.results for record in result.records]
    return pd.DataFrame(rows).astype(dict.fromkeys(_INTEGERS, "Int64"))


def accuracy_table(selection: Selection) -> pd.DataFrame:
    """One row for each entry of an accuracy matrix: accuracy and loss on ``experience`` after training call ``after``.

    Both count from 0. Unfinished runs are included as far as they go: see ``outcome``.
    """
    rows = [
        {
            "id": record.id,
            "scenario": result.scenario,
            "method": result.method,
            "seed": record.run.seed,
            "outcome": record.outcome,
            "after": after,
            "experience": experience,
            "accuracy": accuracy,
            "loss": _entry(record.loss, after, experience),
        }
        for result in selection.results
        for record in result.records
        for after, row in enumerate(record.accuracy)
        for experience, accuracy in enumerate(row)
    ]
    return pd.DataFrame(rows)


def write_table(table: pd.DataFrame, stem: Path) -> None:
    """Write a table as ``stem``.csv and ``stem``.parquet, the same bytes for the same table."""
    table.to_csv(stem.with_suffix(".csv"), index=False, lineterminator="\n")
    table.to_parquet(stem.with_suffix(".parquet"), index=False, engine="pyarrow", compression="zstd")


def _run(result: MethodResult, record: RunRecord) -> dict[str, object]:
    options = result.settings.model_dump(mode="json", exclude={"kind"}, exclude_none=True)
    sequential = record.finished and len(record.accuracy) > 1
    return {
        "id": record.id,
        "scenario": result.scenario,
        "method": result.method,
        "kind": result.settings.kind,
        "options": json.dumps(options, sort_keys=True),
        "strength": math.nan if result.strength is None else result.strength,
        "seed": record.run.seed,
        "device": record.run.device,
        "outcome": record.outcome,
        "average_accuracy": average_accuracy(record.accuracy) if record.finished else math.nan,
        "forgetting": forgetting(record.accuracy) if sequential else math.nan,
        "backward_transfer": backward_transfer(record.accuracy) if sequential else math.nan,
        "learning_accuracy": learning_accuracy(record.accuracy) if sequential else math.nan,
        **{f"seconds_{phase}": sum(getattr(record.seconds, phase)) for phase in PHASES},
        "seconds_total": record.seconds.total,
        "peak_memory_bytes": record.peak_memory,
        "plugin_memory_bytes": record.plugin_memory,
        "plugin_scratch_bytes": record.plugin_scratch,
        "memory_examples": record.memory_examples,
        "resumed": record.resumed,
        "error": record.last_line or None,
        "ended": record.ended,
        "commit": record.commit,
        "system": record.hardware.system,
        "processor": record.hardware.processor,
        "gpu": record.hardware.gpu,
        **{f"version_{package}": version for package, version in sorted(record.versions.items())},
    }


def _entry(matrix: list[list[float]], row: int, column: int) -> float:
    return matrix[row][column] if row < len(matrix) and column < len(matrix[row]) else math.nan
