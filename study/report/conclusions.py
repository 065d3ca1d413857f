"""What people conclude from a report: the only words in it that are written by hand, kept beside its records."""

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
    """A sentence or more on what a report shows; texts as in a report, with `code` between backticks.

    Attributes:
        lead: what it is about, in a word or two.
        text: what there is to say, beginning with a small letter.
    """

    lead: Text
    text: Line


class Explained(Table):
    """Why a published number was reached, or was not.

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
    """The conclusions that a file holds.

    Args:
        text: what is in it.
        path: its name in errors.
        protocol: that of the report.

    Raises:
        ConclusionError: the file is not what it must be, or explains a number that the protocol does not have, or one
            twice.
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
