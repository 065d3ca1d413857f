"""One page on many reports: a table of verdict counts, and what each answers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from study.atomic import write_atomically
from study.protocol.load import load_protocol
from study.records.store import ARCHIVE, kept_search, read_archive
from study.report.analysis import Analysis, analyse
from study.report.attachments import read_attachments
from study.report.comparisons import ABOUT_VERDICTS, LEVEL, VERDICTS
from study.report.document import Bullets, Cell, Column, Document, Section, table_of
from study.report.markdown import to_markdown
from study.report.provenance import packaged_name, with_true_source
from study.report.sections.reproduction_section import PROTOCOL
from study.report.selection import ReportError, select

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
    if path.is_file() and "clreg-study overview" not in path.read_text(encoding="utf-8", errors="replace"):
        raise ReportError(f"{path} is the page of something else; allowed: a folder without one")
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
    """The overview: by report, verdict counts if there are any; then, folded, what each says in a sentence."""
    judged = any(report.analysis.verdicts for report in reports)

    def title(report: Reported) -> Cell:
        return Cell(report.analysis.protocol.title, report.analysis.protocol.title, link=report.page)

    def verdicts(verdict: str) -> Column[Reported]:
        return Column(verdict, lambda report: report.analysis.verdicts[verdict] or None)

    table = table_of(
        "reports",
        "Published numbers by verdict" if judged else "Method against method",
        reports,
        Column("report", title),
        *map(verdicts, sorted(VERDICTS, key=lambda verdict: verdict != "reproduced")),
        Column("pairs that differ", lambda report: report.analysis.differing_pairs),
        Column("runs finished", lambda report: report.analysis.runs),
        Column("unfinished", lambda report: report.analysis.unfinished),
    )
    answers = tuple(
        (report.path, report.page, report.analysis.conclusions.answer or report.analysis.protocol.title)
        for report in reports
    )
    pairs = "Pairs that differ: methods, significantly after Holm's correction, of pairs with enough seeds."
    meaning = f"{ABOUT_VERDICTS} {pairs}" if judged else f"{pairs} All tests at level {LEVEL}."
    return Document(
        f"Reports: {'which published numbers hold' if judged else 'method against method'}",
        "Each row is a report; `clreg-study overview` writes this page from their records.",
        (table, Bullets(answers)),
        (Section("meaning", "What the numbers mean", (meaning,)),),
    )
