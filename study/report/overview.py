"""One page on many reports: verdicts by report, and every published number."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from study.atomic import write_atomically
from study.protocol.load import load_protocol
from study.records.store import ARCHIVE, kept_search, read_archive
from study.report.analysis import Analysis, analyse
from study.report.attachments import read_attachments
from study.report.comparisons import PublishedRow
from study.report.document import Cell, Column, Document, Paragraph, Section, Table
from study.report.markdown import to_markdown
from study.report.number_formats import NOTHING, count, seeds_of, signed_points, with_interval
from study.report.provenance import packaged_name, with_true_source
from study.report.sections.cells import published_cell
from study.report.sections.reproduction_section import PROTOCOL
from study.report.sections.summary_section import COUNTS, count_cells
from study.report.selection import ReportError, select
from study.report.verdicts import MEANING, limits

OVERVIEW = "README.md"


@dataclass(frozen=True)
class Reported:
    """A report at ``path``, relative to the overview."""

    path: str
    analysis: Analysis

    @property
    def page(self) -> str:
        return f"{self.path}/README.md"


def write_overview(folder: Path) -> Path:
    """Write the overview of all reports below a folder into its README.md, from their records.

    Raises:
        ReportError: there is no report, or the folder is itself one, or a report's protocol is missing.
        RecordError, ProtocolError, ConclusionError: a file of a report cannot be read.
    """
    if (folder / ARCHIVE).is_file():
        raise ReportError(f"{folder} is a report; allowed: a folder with reports in folders of their own")
    reports = list(reports_below(folder))
    if not reports:
        raise ReportError(f"there is no report in any folder below {folder} ({ARCHIVE} is missing)")
    path = folder / OVERVIEW
    write_atomically(path, to_markdown(compose_overview(reports)).encode())
    return path


def reports_below(folder: Path) -> Iterator[Reported]:
    """Every report below a folder, in the order of their paths."""
    for archive in sorted(folder.rglob(ARCHIVE)):
        there = archive.parent
        if not (there / PROTOCOL).is_file():
            raise ReportError(f"{there} is no complete report: {PROTOCOL} is missing")
        protocol = load_protocol(str(there / PROTOCOL))
        name = packaged_name(protocol) or PROTOCOL.removesuffix(".toml")
        selection = select(name, with_true_source(name, protocol), read_archive(archive), kept_search(there))
        analysis = analyse(selection, read_attachments([there], protocol))
        yield Reported(there.relative_to(folder).as_posix(), analysis)


def compose_overview(reports: list[Reported]) -> Document:
    """The overview: verdicts by report, then every published number."""
    rows = [(report, row) for report in reports for row in report.analysis.published]
    sections = [_reports(reports)]
    if rows:
        sections.append(_numbers(rows))
    return Document(
        "Reports: which published numbers hold",
        ("Written by `clreg-study overview` from the records in the folders of the reports.",),
        tuple(
            replace(statement, link=report.page)
            for report in reports
            for statement in report.analysis.conclusions.statements[:1]
        ),
        tuple(sections),
    )


def _reports(reports: list[Reported]) -> Section:
    columns = (Column("report", "name"), Column("protocol", "prose"), *COUNTS)
    rows = tuple(
        (
            Cell(report.path, report.path, link=report.page),
            Cell(report.analysis.protocol.title),
            *count_cells(report.analysis, report.analysis.protocol.scenarios),
        )
        for report in reports
    )
    return Section("reports", "Reports", (Table("reports", "Runs and verdicts by report", columns, rows),))


def _numbers(rows: list[tuple[Reported, PublishedRow]]) -> Section:
    columns = (
        Column("report", "name"),
        Column("scenario", "name"),
        Column("method", "name"),
        Column("published %"),
        Column("ours %, 95% interval"),
        Column("seeds"),
        Column("difference"),
        Column("verdict", "name"),
        Column("why", "prose"),
        Column("source", "prose"),
    )
    numbers = len({row.number_key for _, row in rows})
    note = f"{count(numbers, 'published number')} in {count(len(rows), 'comparison')}."
    cells = tuple(_number(report, row) for report, row in rows)
    table = Table("numbers", "Published and ours", columns, cells, (note,))
    return Section("numbers", "Published numbers", (Paragraph(MEANING), table))


def _number(report: Reported, row: PublishedRow) -> tuple[Cell, ...]:
    comparison = row.comparison
    ours, seeds, difference = (NOTHING, 0, NOTHING)
    if comparison is not None:
        ours, seeds = with_interval(comparison.ours), comparison.ours.n
        difference = signed_points(comparison.difference)
    return (
        Cell(report.path, report.path, link=report.page),
        Cell(row.scenario, row.scenario),
        Cell(row.method, row.method),
        published_cell(row.number),
        Cell(ours),
        Cell(seeds_of(seeds, row.seeds)),
        Cell(difference),
        Cell(row.verdict, row.verdict),
        Cell(report.analysis.conclusions.why(row.scenario, row.method) or limits(row)),
        Cell(row.table.source),
    )
