"""Runs that diverged or failed."""

from study.report.analysis import Analysis
from study.report.document import Cell, Column, Paragraph, Section, Table
from study.report.number_formats import count


def unfinished_section(analysis: Analysis) -> Section | None:
    rows = [
        (
            Cell(result.scenario, result.scenario),
            Cell(result.method, result.method),
            Cell(str(record.run.seed), record.run.seed),
            Cell(record.outcome, record.outcome, "problem"),
            Cell(str(len(record.accuracy)), len(record.accuracy)),
            Cell(record.last_line, record.last_line),
        )
        for result in analysis.results
        for record in result.unfinished
    ]
    if not rows:
        return None
    columns = (
        Column("scenario", "name"),
        Column("method", "name"),
        Column("seed"),
        Column("outcome", "name"),
        Column("experiences learned"),
        Column("last line of the error", "prose"),
    )
    text = f"{count(len(rows), 'run')} did not finish. They enter no mean, no interval and no test above."
    table = Table("unfinished", "Runs that diverged or failed", columns, tuple(rows))
    return Section("unfinished", "Runs that diverged or failed", (Paragraph(text), table))
