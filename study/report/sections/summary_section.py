"""Runs by outcome and published numbers by verdict, one row for each scenario."""

from collections import Counter
from collections.abc import Sequence

from study.protocol.settings import Scenario
from study.report.analysis import Analysis
from study.report.document import Cell, Column, Section, Table
from study.report.number_formats import NOTHING
from study.report.verdicts import VERDICTS

COUNTS = (
    Column("runs finished"),
    Column("diverged"),
    Column("failed"),
    *(Column(verdict) for verdict in VERDICTS),
    Column("pairs that differ"),
)
"""The columns that :func:`count_cells` fills."""


def summary_section(analysis: Analysis) -> Section:
    rows = [(Cell(scenario, scenario), *count_cells(analysis, [scenario])) for scenario in analysis.protocol.scenarios]
    notes = (
        "Runs finished: of those that the protocol asks for, where some are missing. Runs that diverged or failed "
        "enter no mean. Pairs that differ: significantly after Holm's correction, of pairs with enough seeds.",
    )
    table = Table("summary", "Runs and verdicts", (Column("scenario", "name"), *COUNTS), tuple(rows), notes)
    return Section("summary", "Summary", (table,))


def count_cells(analysis: Analysis, scenarios: Sequence[Scenario]) -> list[Cell]:
    """What :data:`COUNTS` names, over some scenarios."""
    protocol = analysis.protocol
    records = [record for runs in analysis.selection.runs if runs.scenario in scenarios for record in runs.records]
    outcomes = Counter(record.outcome for record in records)
    asked = len(scenarios) * len(protocol.methods) * protocol.seeds
    within = sum(record.finished and record.run.seed < protocol.seeds for record in records)
    verdicts = Counter(row.verdict for row in analysis.published if row.scenario in scenarios)
    tested = [pair for scenario in scenarios for pair in analysis.pairs.get(scenario, ()) if pair.reachable]
    differ = sum(pair.significant for pair in tested)
    return [
        Cell(f"{within} of {asked}" if within < asked else str(outcomes["finished"]), outcomes["finished"]),
        *(_count(outcomes[outcome]) for outcome in ("diverged", "failed")),
        *(_count(verdicts[verdict]) for verdict in VERDICTS),
        Cell(f"{differ} of {len(tested)}" if tested else NOTHING, differ),
    ]


def _count(number: int) -> Cell:
    return Cell(str(number) if number else NOTHING, number)
