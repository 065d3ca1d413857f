"""Published numbers and ours."""

from collections.abc import Sequence
from typing import get_args

from study.protocol.schema import Published, PublishedNumber
from study.report.analysis import Analysis
from study.report.comparisons import MEANING, VERDICTS, PublishedRow
from study.report.document import Cell, Column, Paragraph, Section, Table, mean_cell, number, table_of, word
from study.report.number_formats import count, margin_points, p_value, points, seeds_of, signed_points, with_bounds
from study.statistics.published import Verdict


def published_section(analysis: Analysis) -> Section | None:
    if not analysis.published:
        return None
    several = len(analysis.protocol.published) > 1
    sources = [
        Paragraph(f"{f'Source {index}' if several else 'Source'}: {table.source}. {_spread(table)}{_margins(table)}")
        for index, table in enumerate(analysis.protocol.published, 1)
    ]
    tables = [
        published_table(
            f"published-{scenario}",
            f"{scenario.capitalize()}-incremental: published and our average accuracy",
            analysis,
            [row for row in analysis.published if row.scenario == scenario],
        )
        for scenario in dict.fromkeys(row.scenario for row in analysis.published)
    ]
    return Section("published", "Published and ours", (Paragraph(MEANING), *sources, *tables))


def _spread(table: Published) -> str:
    runs = f"{table.n} runs" if table.n else "an unstated number of runs"
    kind = {"sd": "± is the standard deviation over", "sem": "± is the standard error of the mean over"}
    return f"Without a spread; over {runs}." if table.spread == "none" else f"{kind[table.spread]} {runs}."


def _margins(table: Published) -> str:
    return f" Margins: {' '.join(table.margin_reason.split())}" if table.margin_reason else ""


def published_table(
    name: str, caption: str, analysis: Analysis, rows: Sequence[PublishedRow], notes: Sequence[str] = ()
) -> Table:
    """One row for each published number, with every test."""
    tables, why = analysis.protocol.published, analysis.conclusions.why
    return table_of(
        name,
        caption,
        rows,
        METHOD,
        Column("source", lambda row: number(tables.index(row.table) + 1 if len(tables) > 1 else None)),
        *NUMBERS,
        Column("seeds", lambda row: number(len(row.ours.scores) if row.ours else 0, lambda n: seeds_of(n, row.seeds))),
        Column("difference, 95% interval", _difference),
        Column("margin", lambda row: number(row.margin, margin_points)),
        Column("p (Welch)", lambda row: number(row.comparison and row.comparison.p, p_value)),
        Column("p (TOST)", lambda row: number(row.comparison and row.comparison.p_tost, p_value)),
        Column("limited by", lambda row: word(row.limits), "prose"),
        Column("why", lambda row: word(why(row.scenario, row.method)), "prose"),
        notes=notes,
    )


def verdict_table(analysis: Analysis, most: int) -> Table:
    """The verdicts that need attention first, in at most so many rows."""
    rows = sorted(analysis.published, key=lambda row: VERDICTS.index(row.verdict))
    several = len({row.scenario for row in rows}) > 1
    scenario = Column[PublishedRow]("scenario", lambda row: word(row.scenario if several else ""), "name")
    more = len(rows) - most
    notes = [f"{count(more, 'further number')} below."] if more > 0 else []
    return table_of("verdicts", "Published and ours", rows[:most], METHOD, scenario, *NUMBERS, notes=notes)


METHOD = Column[PublishedRow]("method", lambda row: word(row.method), "name")
NUMBERS: tuple[Column[PublishedRow], ...] = (
    Column("verdict", lambda row: word(row.verdict, row.verdict if row.verdict in get_args(Verdict) else ""), "name"),
    Column("published %", lambda row: number(row.number.mean, lambda _: _published(row.number))),
    Column("ours %, 95% interval", lambda row: mean_cell(row.ours and row.ours.accuracy)),
)


def _published(published: PublishedNumber) -> str:
    return points(published.mean) + ("" if published.spread is None else f" ± {points(published.spread)}")


def _difference(row: PublishedRow) -> Cell:
    c = row.comparison
    return number(c and c.difference, lambda value: with_bounds(signed_points(value), c.low, c.high))
