"""From a protocol and its records to a folder with the report."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from study.atomic import write_atomically
from study.protocol.schema import Protocol
from study.records.run_record import RunRecord
from study.records.store import ARCHIVE, TUNING_ARCHIVE, write_archive
from study.report.analysis import Analysis, analyse
from study.report.attachments import ATTACHMENTS, Attachments, read_attachments
from study.report.data_files import accuracy_table, runs_table, write_table
from study.report.document import Bullets, Document, Figure, Section
from study.report.html import to_html
from study.report.markdown import FIGURES, write_page
from study.report.number_formats import count
from study.report.provenance import protocol_text, with_true_source
from study.report.sections.agreement_section import agreement_section
from study.report.sections.cost_section import cost_section, unfinished_section
from study.report.sections.curves_section import curves_section
from study.report.sections.first_screen import first_screen, is_about_strength
from study.report.sections.importance_section import importance_section
from study.report.sections.lambda_section import lambda_figures, lambda_section
from study.report.sections.pairs_section import pairs_section
from study.report.sections.published_section import published_section
from study.report.sections.reproduction_section import PROTOCOL, reproduction_section
from study.report.sections.results_section import accuracy_figures, results_section
from study.report.selection import ReportError, select

PAGE = "index.html"
OUR_FIGURES = re.compile(r"(accuracy|curve|first|matrices|memory|lambda|time|peak)-(task|domain|class)")


class Written(NamedTuple):
    """The HTML page, and a sentence on records that were left out (may be empty)."""

    page: Path
    left_out: str


def write_report(
    name: str,
    protocol: Protocol,
    records: Sequence[RunRecord],
    tuning: Sequence[RunRecord],
    folder: Path,
    attachments: Attachments | None = None,
    only_copy: bool = False,
) -> Written:
    """Write a report: README.md, index.html, figures, the protocol, and the data behind them.

    The same records give the same bytes, except for the sentence on records that were left out.

    Args:
        name, protocol: the protocol, which decides the records, see :func:`study.report.selection.select`.
        records: of its runs, in any order; others are left out.
        tuning: of its search for λ; may be empty.
        folder: of the report; an earlier report in it is replaced.
        attachments: by default those in the folder.
        only_copy: the folder's own archives are where the records come from, so none may be left out.

    Raises:
        ReportError: no record belongs to the protocol, or the folder holds something else, or a record would be lost.
        OSError: the folder cannot be written to.
    """
    _check_folder(folder)
    attachments = attachments or read_attachments([folder], protocol)
    analysis = analyse(select(name, with_true_source(name, protocol), records, tuning), attachments)
    lost = len(records) + len(tuning) - len(analysis.selection.records) - len(analysis.selection.tuning)
    if only_copy and lost:
        raise ReportError(
            f"{folder} holds the only copy of {count(lost, 'record')} that this report would leave out; allowed for "
            "--out: another folder"
        )
    document = compose(analysis)
    # first, since it tells a folder of ours even if what follows is cut short
    write_archive(analysis.selection.records, folder / ARCHIVE)
    write_page(document, folder)
    _delete_other_figures(document.figures, folder / FIGURES)
    write_atomically(folder / PAGE, to_html(document).encode())
    write_atomically(folder / PROTOCOL, protocol_text(name, analysis.protocol).encode())
    attachments.write(folder)
    write_table(runs_table(analysis.selection), folder / "results")
    write_table(accuracy_table(analysis.selection), folder / "accuracy")
    if analysis.selection.tuning:
        write_archive(analysis.selection.tuning, folder / TUNING_ARCHIVE)
    else:
        (folder / TUNING_ARCHIVE).unlink(missing_ok=True)
    return Written(folder / PAGE, analysis.selection.left_out_sentence)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds something other than a report."""
    others = folder.is_dir() and any(path.name not in ATTACHMENTS for path in folder.iterdir())
    if others and not (folder / ARCHIVE).is_file():
        raise ReportError(
            f"{folder} is not empty and holds no report ({ARCHIVE} is missing); allowed for --out: a new or empty "
            "folder, or that of an earlier report"
        )


def compose(analysis: Analysis) -> Document:
    """The report as a document; empty sections are left out."""
    accuracy, search = accuracy_figures(analysis), lambda_figures(analysis)
    pictures = search if is_about_strength(analysis) else accuracy
    description = [" ".join(paragraph.split()) for paragraph in analysis.protocol.description.strip().split("\n\n")]
    stated = tuple((entry.lead, "", entry.text) for entry in analysis.conclusions.stated)
    sections = (
        Section("conclusions", "Conclusions", (Bullets(stated),)) if stated else None,
        Section("protocol", "The protocol", tuple(description)) if any(description) else None,
        published_section(analysis),
        results_section(analysis, () if pictures is accuracy else accuracy),
        pairs_section(analysis),
        agreement_section(analysis),
        importance_section(analysis),
        curves_section(analysis),
        lambda_section(analysis, () if pictures is search else search),
        cost_section(analysis),
        unfinished_section(analysis),
        reproduction_section(analysis),
    )
    described = description[0].partition(". ")[0].removesuffix(".")
    return Document(
        analysis.protocol.title,
        analysis.conclusions.answer or (f"{described}." if described else analysis.finding or analysis.status),
        first_screen(analysis, pictures),
        tuple(section for section in sections if section is not None),
    )


def _delete_other_figures(figures: Sequence[Figure], folder: Path) -> None:
    """Delete the figures of an earlier report."""
    names = {figure.name for figure in figures}
    for path in folder.glob("*.svg"):
        if OUR_FIGURES.fullmatch(path.stem) and path.stem not in names:
            path.unlink()
