"""Published numbers and ours."""

from collections.abc import Callable

from study.protocol.schema import Published
from study.protocol.settings import Scenario
from study.report.analysis import Analysis
from study.report.comparisons import PublishedRow
from study.report.document import Cell, Column, Paragraph, Section, Table, section_by_scenario
from study.report.number_formats import NOTHING, interval, margin_points, seeds_of, signed_points, with_interval
from study.report.sections.cells import p_cell, published_cell
from study.report.verdicts import MEANING, limits


def published_section(analysis: Analysis) -> Section | None:
    if not analysis.published:
        return None
    tables = analysis.protocol.published
    subsections = []
    for scenario in dict.fromkeys(row.scenario for row in analysis.published):
        rows = [row for row in analysis.published if row.scenario == scenario]
        subsections.append(
            Section(
                f"published-{scenario}",
                f"{scenario.capitalize()}-incremental",
                (_table(scenario, rows, tables, analysis.conclusions.why),),
            )
        )
    return section_by_scenario(
        "published", "Published and ours", (Paragraph(MEANING), *_sources(analysis)), subsections
    )


def _sources(analysis: Analysis) -> list[Paragraph]:
    several = len(analysis.protocol.published) > 1
    return [
        Paragraph(f"{f'Source {index}' if several else 'Source'}: {table.source}. {_spread(table)}{_margins(table)}")
        for index, table in enumerate(analysis.protocol.published, 1)
    ]


def _spread(table: Published) -> str:
    runs = f"{table.n} runs" if table.n else "an unstated number of runs"
    kind = {"sd": "± is the standard deviation over", "sem": "± is the standard error of the mean over"}
    return f"Without a spread; over {runs}." if table.spread == "none" else f"{kind[table.spread]} {runs}."


def _margins(table: Published) -> str:
    return f" Margins: {' '.join(table.margin_reason.split())}" if table.margin_reason else ""


def _table(
    scenario: str, rows: list[PublishedRow], tables: list[Published], why: Callable[[Scenario, str], str]
) -> Table:
    columns = [
        Column("method", "name"),
        Column("verdict", "name"),
        Column("published %"),
        Column("ours %, 95% interval"),
        Column("seeds"),
        Column("difference, 95% interval"),
        Column("margin"),
        Column("p (Welch)"),
        Column("p (TOST)"),
        Column("limited by", "prose"),
        Column("why", "prose"),
    ]
    if len(tables) > 1:
        columns.insert(1, Column("source"))
    cells = [_row(row, tables, why(row.scenario, row.method)) for row in rows]
    for last in (-1, -2):
        if not any(row[last].text for row in cells):
            del columns[last]
            cells = [row[:last] + row[len(row) + last + 1 :] for row in cells]
    caption = f"{scenario.capitalize()}-incremental: published and our average accuracy"
    return Table(f"published-{scenario}", caption, tuple(columns), tuple(cells))


def _row(row: PublishedRow, tables: list[Published], why: str) -> tuple[Cell, ...]:
    number, comparison = row.number, row.comparison
    source = tables.index(row.table) + 1
    first = [Cell(row.method, row.method), *([Cell(str(source), source)] if len(tables) > 1 else [])]
    published = published_cell(number)
    margin = row.table.margin if number.margin is None else number.margin
    if comparison is None:
        nothing = Cell(NOTHING)
        rest = (
            published,
            nothing,
            Cell(seeds_of(0, row.seeds), 0),
            nothing,
            Cell(margin_points(margin), margin),
            nothing,
            nothing,
        )
        return (*first, Cell(row.verdict, row.verdict), *rest, Cell(""), Cell(why, why or None))
    limited = limits(row)
    difference = signed_points(comparison.difference)
    bounds = interval(comparison.low, comparison.high)
    return (
        *first,
        Cell(row.verdict, row.verdict, "" if row.changes else comparison.verdict),
        published,
        Cell(with_interval(comparison.ours), comparison.ours.mean),
        Cell(seeds_of(comparison.ours.n, row.seeds), comparison.ours.n),
        Cell(difference if bounds == NOTHING else f"{difference} {bounds}", comparison.difference),
        Cell(margin_points(margin), margin),
        p_cell(comparison.p),
        p_cell(comparison.p_tost),
        Cell(limited, limited or None),
        Cell(why, why or None),
    )
