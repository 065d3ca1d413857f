"""The size of the importance, and how it grows over the experiences."""

from collections.abc import Sequence
from statistics import fmean

from study.protocol.settings import Scenario
from study.report.analysis import Analysis
from study.report.document import Column, Section, Table, spread, table_of
from study.report.method_results import MethodResult
from study.report.number_formats import strength, two_digits

HOW = (
    "ΣΩ: sum of the importance over all weights, of everything consolidated so far; mean [least, largest] over seeds. "
    "Growth: the last over the first, of the means."
)


def importance_section(analysis: Analysis) -> Section | None:
    tables = [_table(scenario, analysis.finished(scenario)) for scenario in analysis.scenarios]
    kept = [table for table in tables if table.rows]
    return Section("importance", "Size of the importance", (HOW, *kept)) if kept else None


def _table(scenario: Scenario, results: Sequence[MethodResult]) -> Table:
    measured = [result for result in results if all(record.importance for record in result.finished)]
    experiences = max((len(record.importance) for result in measured for record in result.finished), default=0)
    return table_of(
        f"importance-{scenario}",
        f"{scenario.capitalize()}-incremental: ΣΩ after the first and the last experience",
        measured,
        Column("method", lambda result: result.method),
        Column("λ", lambda result: result.strength, strength),
        Column("after 1", lambda result: spread(_sizes(result, 0), two_digits)),
        Column(f"after {experiences}", lambda result: spread(_sizes(result, -1), two_digits)),
        Column("growth", _growth, two_digits),
        Column("λ · ΣΩ", _weight, two_digits),
    )


def _sizes(result: MethodResult, experience: int) -> list[float]:
    return [record.importance[experience] for record in result.finished]


def _growth(result: MethodResult) -> float | None:
    first = fmean(_sizes(result, 0))
    return fmean(_sizes(result, -1)) / first if first else None


def _weight(result: MethodResult) -> float | None:
    return None if result.strength is None else result.strength * fmean(_sizes(result, -1))
