"""Published numbers and ours."""

from collections import Counter
from typing import get_args

from study.protocol.schema import Published, PublishedNumber
from study.report.analysis import Analysis
from study.report.comparisons import (
    ABOUT_VERDICTS,
    MARGIN_RULE,
    VERDICTS,
    PublishedRow,
    difference_cell,
    verdict_meanings,
)
from study.report.document import Cell, Column, Mark, Section, Table, table_of
from study.report.number_formats import count, p_value, points, seeds_of


def published_section(analysis: Analysis) -> Section | None:
    if not analysis.published:
        return None
    several = len(analysis.protocol.published) > 1
    sources = [
        f"{f'Source {index}' if several else 'Source'}: {table.source}. {_spread(table)}"
        for index, table in enumerate(analysis.protocol.published, 1)
    ]
    tables = [_table(analysis, scenario) for scenario in dict.fromkeys(row.scenario for row in analysis.published)]
    return Section("published", "Published and ours", (ABOUT_VERDICTS, *sources, *tables))


def _spread(table: Published) -> str:
    runs = count(table.n, "run") if table.n else "an unstated number of runs"
    kind = {"sd": "± is the standard deviation over", "sem": "± is the standard error of the mean over"}
    return f"Published without a spread, over {runs}." if table.spread == "none" else f"{kind[table.spread]} {runs}."


def _table(analysis: Analysis, scenario: str) -> Table:
    tables, why = analysis.protocol.published, analysis.conclusions.why
    return table_of(
        f"published-{scenario}",
        f"{scenario.capitalize()}-incremental: published and our average accuracy",
        [row for row in analysis.published if row.scenario == scenario],
        METHOD,
        Column("source", lambda row: tables.index(row.table) + 1 if len(tables) > 1 else None),
        *NUMBERS,
        Column(
            "seeds", lambda row: len(row.ours.scores) if row.ours else 0, lambda n: seeds_of(n, analysis.protocol.seeds)
        ),
        Column("difference, 95% interval", lambda row: difference_cell(row.comparison)),
        MARGIN,
        Column("smallest margin that passes", lambda row: row.comparison and row.comparison.smallest_margin, points),
        Column("p (Welch)", lambda row: row.comparison and row.comparison.p, p_value),
        Column("p (TOST)", lambda row: row.comparison and row.comparison.p_tost, p_value),
        Column("limited by", lambda row: row.limits),
        Column("why", lambda row: why(row.scenario, row.method)),
    )


def verdict_table(analysis: Analysis, most: int) -> Table:
    """The verdicts that need attention first, in at most ``most`` rows."""
    rows = sorted(analysis.counted, key=lambda row: VERDICTS.index(row.verdict))
    several = len({row.scenario for row in rows}) > 1
    scenario = Column[PublishedRow]("scenario", lambda row: row.scenario if several else "")
    shown, further = rows[:most], Counter(row.verdict for row in rows[most:])
    verdicts = ", ".join(f"{number} {verdict}" for verdict, number in further.items())
    spreads = {_spread(row.table): row.table.source for row in shown}
    notes = [
        f"{count(further.total(), 'further number')} below: {verdicts}." if further else "",
        *(f"{source}: {said}" if len(spreads) > 1 else said for said, source in spreads.items()),
        MARGIN_RULE if any(row.comparison for row in shown) else "",
        verdict_meanings({row.verdict for row in shown}),
    ]
    columns = (METHOD, scenario, *NUMBERS, MARGIN)
    return table_of("verdicts", "Published and ours", shown, *columns, notes=filter(None, notes))


METHOD = Column[PublishedRow]("method", lambda row: row.method)
NUMBERS: tuple[Column[PublishedRow], ...] = (
    Column("verdict", lambda row: Cell(row.verdict, row.verdict, row.verdict if row.verdict in get_args(Mark) else "")),
    Column("published %", lambda row: Cell(_published(row.number), row.number.mean)),
    Column("ours %, 95% interval", lambda row: row.ours and row.ours.accuracy),
)

MARGIN = Column[PublishedRow]("margin", lambda row: row.comparison and row.comparison.margin, "{:.3g}".format)


def _published(published: PublishedNumber) -> str:
    return points(published.mean) + ("" if published.spread is None else f" ± {points(published.spread)}")
