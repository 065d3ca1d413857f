"""One page on many reports: every published number that they tried, and what came of it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from study.protocol import load_protocol
from study.reporting.answer import answer
from study.reporting.attachments import read_attachments
from study.reporting.conclusions import CONCLUSIONS
from study.reporting.document import Cell, Column, Document, Paragraph, Section, Statement, Table
from study.reporting.evidence import NO_RUN, OTHER_SETTINGS, PublishedRow
from study.reporting.findings import Findings, find
from study.reporting.markdown import to_markdown
from study.reporting.numbers import NOTHING, count, enumeration, interval, points, signed_points, with_interval
from study.reporting.provenance import packaged_name, with_true_source
from study.reporting.sections.cells import published_cell
from study.reporting.sections.reproduction import PROTOCOL
from study.reporting.selection import ReportError, select
from study.store import ARCHIVE, read_archive, write_atomically
from study.tuning import TUNING_ARCHIVE

OVERVIEW = "README.md"
ORDER = ("reproduced", "above", "below", "inconclusive", OTHER_SETTINGS, NO_RUN)


@dataclass(frozen=True)
class Reported:
    """A report as it is found in a folder.

    Attributes:
        path: of its folder, from that of the overview, with "/" between the parts.
        findings: what it says.
    """

    path: str
    findings: Findings


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
        tuning = read_archive(there / TUNING_ARCHIVE) if (there / TUNING_ARCHIVE).is_file() else []
        selection = select(name, with_true_source(name, protocol), read_archive(archive), tuning)
        findings = find(selection, read_attachments([there], protocol))
        yield Reported(there.relative_to(folder).as_posix(), findings)


def compose_overview(reports: list[Reported]) -> Document:
    """What the overview says: the numbers, then the reports."""
    rows = [(report, row) for report in reports for row in report.findings.published]
    sections = [_reports(reports)]
    if rows:
        sections.insert(0, _numbers(rows))
    return Document(
        "Reports: which published numbers hold",
        (
            "Every report below this folder, and every published number that one of them tried. This page is written "
            "by `clreg-study overview` from the records beside the reports.",
        ),
        tuple(_answer(reports, rows)),
        tuple(sections),
    )


def _answer(reports: list[Reported], rows: list[tuple[Reported, PublishedRow]]) -> Iterator[Statement]:
    if rows:
        verdicts = Counter(row.verdict for _, row in rows)
        said = [f"{verdicts[verdict]} {verdict}" for verdict in ORDER if verdicts[verdict]]
        yield Statement("Published numbers", f"{len(rows)} tried: {enumeration(said)}.")
    for report in reports:
        yield from report.findings.conclusions.statements


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
    )
    how = (
        "Average accuracy over all experiences at the end. `reproduced`: an equivalence test (TOST) at the 0.05 level "
        "shows that ours lies within the margin; `above` and `below`: it does not, and Welch's t-test shows a "
        "difference; `inconclusive`: neither. The margins, the tests and the sources are in the reports."
    )
    table = Table("numbers", "Published and ours", columns, tuple(_number(report, row) for report, row in rows))
    return Section("numbers", "Published numbers", (Paragraph(how), table))


def _number(report: Reported, row: PublishedRow) -> tuple[Cell, ...]:
    comparison = row.comparison
    ours, seeds, difference = (NOTHING, "0", NOTHING)
    if comparison is not None:
        ours, seeds = with_interval(comparison.ours), str(comparison.ours.n)
        difference = signed_points(comparison.difference)
    verdict = row.verdict
    return (
        Cell(report.path, report.path, link=f"{report.path}/{OVERVIEW}"),
        Cell(row.scenario, row.scenario),
        Cell(row.method, row.method),
        published_cell(row.number),
        Cell(ours),
        Cell(seeds),
        Cell(difference),
        Cell(verdict, verdict),
        Cell(explanation(row, report.findings.conclusions.why(row.scenario, row.method))),
    )


def explanation(row: PublishedRow, why: str = "") -> str:
    """Why a number has its verdict, in one line.

    Args:
        row: the number.
        why: what people say to it; then that is the answer.
    """
    comparison = row.comparison
    if why:
        return why
    if comparison is None:
        return "not run yet"
    if row.changes:
        return f"our settings are others: {row.changes}"
    margin = f"the margin of ±{points(comparison.margin)}"
    if comparison.verdict == "reproduced":
        return f"within {margin}"
    if comparison.verdict == "inconclusive":
        limits = f"{comparison.reason}; " if comparison.reason else ""
        bounds = interval(comparison.low, comparison.high)
        known = "" if bounds == NOTHING else f", 95% interval {bounds}"
        return f"{limits}{count(comparison.ours.n, 'seed')} leave the difference too uncertain for {margin}{known}"
    return "not explained yet"


def _reports(reports: list[Reported]) -> Section:
    columns = (Column("report", "name"), Column("protocol", "prose"), Column("runs"), Column("in short", "prose"))
    rows = []
    for report in reports:
        findings = report.findings
        runs = len(findings.selection.records)
        stated = len(findings.conclusions.stated)
        first = answer(findings)[stated]  # what the records say; the words of people stand above
        rows.append(
            (
                Cell(report.path, report.path, link=f"{report.path}/{OVERVIEW}"),
                Cell(findings.protocol.title),
                Cell(str(runs), runs),
                Cell(f"{first.lead}: {first.text}"),
            )
        )
    note = (
        f"Each folder has the page, its figures and the records of all runs, and in `{CONCLUSIONS}` the words that "
        "were written by hand; `clreg-study report` writes the same bytes again from them."
    )
    table = Table("reports", "Reports", columns, tuple(rows), (note,))
    return Section("reports", "Reports", (table,))
