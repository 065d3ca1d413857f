"""Files that a report includes: conclusions, and agreement of importances."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from study.atomic import write_atomically
from study.protocol.schema import Protocol
from study.records.importance_agreement import AGREEMENT_FILE, ImportanceAgreement, check_agreement, read_agreement
from study.report.conclusions import CONCLUSIONS, Conclusions, parse_conclusions

ATTACHMENTS = (CONCLUSIONS, AGREEMENT_FILE)
"""Their files' names."""


@dataclass(frozen=True)
class Attachments:
    """Files that a report includes.

    Attributes:
        conclusions: written by hand.
        agreement: rows of ``clreg-study agreement``; may be empty.
        files: their content, by name.
    """

    conclusions: Conclusions = field(default_factory=Conclusions)
    agreement: Sequence[ImportanceAgreement] = ()
    files: dict[str, bytes] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        for name, text in self.files.items():
            write_atomically(folder / name, text)


def read_attachments(folders: Sequence[Path], protocol: Protocol) -> Attachments:
    """Conclusions from the first folder that has them, agreement from the last.

    Args:
        folders: of the report, then of the records, where measurements are newer.
        protocol: of the report.

    Raises:
        ConclusionError, AgreementError: a file is not valid, or of another protocol.
    """
    conclusions, agreement, files = Conclusions(), [], {}
    if path := _first(CONCLUSIONS, folders):
        files[CONCLUSIONS] = path.read_bytes()
        conclusions = parse_conclusions(files[CONCLUSIONS], path, protocol)
    if path := _first(AGREEMENT_FILE, folders[::-1]):
        files[AGREEMENT_FILE] = path.read_bytes()
        agreement = read_agreement(path)
        check_agreement(agreement, protocol, path)
    return Attachments(conclusions, agreement, files)


def _first(name: str, folders: Sequence[Path]) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)
