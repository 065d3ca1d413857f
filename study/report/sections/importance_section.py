"""The size of the importance, and how it grows over the experiences."""

from collections.abc import Sequence
from statistics import fmean

from study.protocol.settings import Scenario
from study.report.analysis import Analysis
from study.report.document import Column, Section, Table, mean_with_range, table_of
from study.report.method_results import MethodResult
from study.report.number_formats import strength, two_digits

HOW = (
    "ΣΩ: sum of the importance over all weights, negative entries included, of everything consolidated so far; mean "
    "[least, largest] over seeds. Growth: the last over the first, of the means. λ · ΣΩ: with the mean of the last."
)


def importance_section(analysis: Analysis) -> Section | None:
    tables = [_table(scenario, analysis.finished(scenario)) for scenario in analysis.scenarios]
    kept = [table for table in tables if table.rows]
    return Section("importance", "Size of the importance", (HOW, *kept)) if kept else None


def _table(scenario: Scenario, results: Sequence[MethodResult]) -> Table:
    measured = [result for result in results if _sizes(result, 0)]
    experiences = max((len(record.importance) for result in measured for record in result.finished), default=0)
    return table_of(
        f"importance-{scenario}",
        f"{scenario.capitalize()}-incremental: ΣΩ after the first and the last experience",
        measured,
        Column("method", lambda result: result.method),
        Column("λ", lambda result: result.strength, strength),
        Column("ΣΩ, first", lambda result: mean_with_range(_sizes(result, 0), two_digits)),
        Column(f"ΣΩ, last of {experiences}", lambda result: mean_with_range(_sizes(result, -1), two_digits)),
        Column("growth", _growth, two_digits),
        Column("λ · ΣΩ", _weight, two_digits),
        Column("seeds", lambda result: len(_sizes(result, 0))),
    )


def _sizes(result: MethodResult, experience: int) -> list[float]:
    """By seed; records of earlier versions have none."""
    return [record.importance[experience] for record in result.finished if record.importance]


def _growth(result: MethodResult) -> float | None:
    first = fmean(_sizes(result, 0))
    return fmean(_sizes(result, -1)) / first if first > 0 else None


def _weight(result: MethodResult) -> float | None:
    return None if result.strength is None else result.strength * fmean(_sizes(result, -1))
