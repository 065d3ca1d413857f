"""Conclusions: the only part of a report that is written by hand."""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from study.errors import StudyError
from study.protocol.schema import Protocol, Text
from study.protocol.settings import Scenario, Table
from study.protocol.validation_messages import validation_messages
from study.report.document import Statement

CONCLUSIONS = "conclusions.toml"
"""In the folder of a report."""


class ConclusionError(StudyError):
    """The file of conclusions is not valid."""


Line = Annotated[Text, AfterValidator(lambda text: " ".join(text.split()))]
"""Text that the file may break over lines."""


class Stated(Table):
    """A conclusion; texts may have `code` between backticks.

    Attributes:
        lead: its subject, in a word or two.
        text: the conclusion, beginning in lower case.
    """

    lead: Text
    text: Line


class Explained(Table):
    """Why published numbers were reached or not.

    Attributes:
        scenario, methods: which numbers.
        why: one line; best with the experiment that shows it.
    """

    scenario: Scenario
    methods: list[str] = Field(min_length=1)
    why: Line


class Conclusions(Table):
    """The file's content: ``[[stated]]`` for the head of the report, ``[[explained]]`` for published numbers."""

    stated: list[Stated] = Field(default_factory=list)
    explained: list[Explained] = Field(default_factory=list)

    @property
    def statements(self) -> list[Statement]:
        return [Statement(entry.lead, entry.text) for entry in self.stated]

    def why(self, scenario: Scenario, method: str) -> str:
        """The explanation of a published number; empty if there is none."""
        for entry in self.explained:
            if entry.scenario == scenario and method in entry.methods:
                return entry.why
        return ""


def parse_conclusions(text: bytes, path: Path, protocol: Protocol) -> Conclusions:
    """Parse the conclusions of a file; ``path`` is its name in errors.

    Raises:
        ConclusionError: the file is not valid, or explains a number twice, or one that the protocol does not have.
    """
    try:
        conclusions = Conclusions.model_validate(tomllib.loads(text.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConclusionError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise ConclusionError("\n".join(f"{path}: {line}" for line in validation_messages(error))) from error
    published = {
        (scenario, method)
        for table in protocol.published
        for method, by_scenario in table.results.items()
        for scenario in by_scenario
    }
    explained: dict[tuple[Scenario, str], Explained] = {}
    for entry in conclusions.explained:
        for method in entry.methods:
            first = explained.setdefault((entry.scenario, method), entry)
            if first is not entry or entry.methods.count(method) > 1:
                raise ConclusionError(
                    f"{path}: explained holds {entry.scenario}, {method!r} twice, with why = {first.why!r} and "
                    f"why = {entry.why!r}; allowed: one explanation of a number"
                )
            if (entry.scenario, method) not in published:
                allowed = ", ".join(other for scenario, other in sorted(published) if scenario == entry.scenario)
                raise ConclusionError(
                    f"{path}: explained.methods holds {method!r}, for which no {entry.scenario}-incremental number is "
                    f"published; allowed: {allowed or 'none'}"
                )
    return conclusions
