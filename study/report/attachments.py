"""Files that a report includes: conclusions, written by hand, agreement of importances, and the user's own code."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from study.atomic import write_atomically
from study.errors import StudyError
from study.protocol.own_code import source_hash
from study.protocol.schema import Protocol, Text
from study.protocol.settings import Scenario, Table
from study.protocol.validation_messages import validation_messages
from study.records.importance_agreement import AGREEMENT_FILE, ImportanceAgreement, check_agreement, read_agreement

CONCLUSIONS = "conclusions.toml"
ATTACHMENTS = (CONCLUSIONS, AGREEMENT_FILE)
LONGEST_ANSWER = 25  # words: it stands above the fold


class ConclusionError(StudyError):
    """The file of conclusions is not valid."""


def _short(text: str) -> str:
    if (words := len(text.split())) > LONGEST_ANSWER:
        raise PydanticCustomError("long", f"has {words} words; allowed: at most {LONGEST_ANSWER}")
    return text


Line = Annotated[Text, AfterValidator(lambda text: " ".join(text.split()))]
"""Text that the file may break over lines, with `code` between backticks."""


class Stated(Table):
    """A conclusion: its subject in a word or two, and the text, beginning in lower case."""

    lead: Text
    text: Line


class Explained(Table):
    """Why published numbers were reached or not: which numbers, and one line on why."""

    scenario: Scenario
    methods: list[str] = Field(min_length=1)
    why: Line


class Conclusions(Table):
    """The file's content.

    Attributes:
        answer: one sentence below the title, of at most 25 words; by default the protocol's first.
        stated: ``[[stated]]``, conclusions.
        explained: ``[[explained]]``, on published numbers.
    """

    answer: Annotated[Line, AfterValidator(_short)] | None = None
    stated: list[Stated] = Field(default_factory=list)
    explained: list[Explained] = Field(default_factory=list)

    def why(self, scenario: Scenario, method: str) -> str:
        """The explanation of a published number; empty if there is none."""
        found = (entry.why for entry in self.explained if entry.scenario == scenario and method in entry.methods)
        return next(found, "")


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


def read_attachments(folders: Sequence[Path], protocol: Protocol, code_folder: Path | None = None) -> Attachments:
    """Conclusions from the first folder that has them, agreement from the last, and the user's own code.

    Args:
        folders: of the report, then of the records, where measurements are newer.
        protocol: of the report.
        code_folder: what files of the user's own code are relative to; without it they are left out.

    Raises:
        ConclusionError, AgreementError: a file is not valid, or of another protocol.
    """
    conclusions, agreement, files = Conclusions(), [], {}
    if path := _first(CONCLUSIONS, folders):
        files[CONCLUSIONS] = path.read_bytes()
        conclusions = _parse(files[CONCLUSIONS], path, protocol)
    if path := _first(AGREEMENT_FILE, folders[::-1]):
        files[AGREEMENT_FILE] = path.read_bytes()
        agreement = read_agreement(path)
        check_agreement(agreement, protocol, path)
    if code_folder is not None:
        files |= _own_code(protocol, code_folder)
    return Attachments(conclusions, agreement, files)


def _own_code(protocol: Protocol, folder: Path) -> dict[str, bytes]:
    """The files below a folder that the protocol names, in the version that it names; nothing is imported."""
    return {
        own_file(file): (folder / file).read_bytes()
        for file, version in protocol.own_code.items()
        if own_file(file) and source_hash(file, folder) == version is not None
    }


def own_file(file: str) -> str:
    """The path within a report's folder of a file of the user's own; empty for a module, and outside of the folder."""
    path = PurePosixPath(file)
    return "" if path.suffix != ".py" or path.is_absolute() or ".." in path.parts else str(path)


def _first(name: str, folders: Sequence[Path]) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _parse(text: bytes, path: Path, protocol: Protocol) -> Conclusions:
    try:
        conclusions = Conclusions.model_validate(tomllib.loads(text.decode()))
    except ValidationError as error:
        raise ConclusionError("\n".join(f"{path}: {line}" for line in validation_messages(error))) from error
    except (ValueError, RecursionError) as error:
        raise ConclusionError(f"{path} is not TOML: {error}") from error
    numbers = {(kind, method) for table in protocol.published for method, row in table.results.items() for kind in row}
    explained: dict[tuple[Scenario, str], str] = {}
    for entry in conclusions.explained:
        for method in entry.methods:
            number = (entry.scenario, method)
            if number in explained:
                raise ConclusionError(
                    f"{path}: explained holds {entry.scenario}, {method!r} twice, with why = {explained[number]!r} and "
                    f"why = {entry.why!r}; allowed: one explanation of a number"
                )
            if number not in numbers:
                allowed = ", ".join(other for scenario, other in sorted(numbers) if scenario == entry.scenario)
                raise ConclusionError(
                    f"{path}: explained.methods holds {method!r}, for which no {entry.scenario}-incremental number is "
                    f"published; allowed: {allowed or 'none'}"
                )
            explained[number] = entry.why
    return conclusions
