"""A report before it is Markdown, HTML or LaTeX. Texts are plain, with `code` between backticks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Mark = Literal["", "reproduced", "above", "below", "inconclusive", "significant", "problem"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what is shown, the same in all outputs.
        value: sort key, in one unit for the whole column; None sorts last.
        mark: highlights the cell.
        link: relative path; in Markdown only.
    """

    text: str
    value: float | str | None = None
    mark: Mark = ""
    link: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: with the unit.
        kind: "number" (aligned right), "name", or "prose" (may break over lines).
    """

    heading: str
    kind: Literal["number", "name", "prose"] = "number"


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row.

    Attributes:
        name: id within the report: letters, digits and hyphens.
        caption: what it shows.
        columns, rows: as many cells in each row as columns.
        notes: sentences below it.
        folded: summary of a collapsed table; None shows it.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    folded: str | None = None


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        name: of its file, without ".svg".
        caption: what it shows.
        alt: text alternative.
        svg: an ``<svg>`` element with ids of its own.
    """

    name: str
    caption: str
    alt: str
    svg: str


@dataclass(frozen=True)
class Gallery:
    """Figures in a row where the page is wide enough."""

    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Code:
    """A code block in ``language`` "sh" or "toml"; ``folded`` as for a table."""

    text: str
    language: str
    folded: str | None = None


Block = Table | Gallery | Paragraph | Code


@dataclass(frozen=True)
class Section:
    """A section, with blocks before its subsections; ``name`` is its id."""

    name: str
    heading: str
    blocks: tuple[Block, ...] = ()
    sections: tuple["Section", ...] = ()


def section_by_scenario(name: str, heading: str, blocks: Sequence[Block], scenarios: Sequence[Section]) -> Section:
    """A section with a subsection a scenario; a single one needs no heading of its own."""
    if len(scenarios) == 1:
        return Section(name, heading, (*blocks, *scenarios[0].blocks))
    return Section(name, heading, tuple(blocks), tuple(scenarios))


@dataclass(frozen=True)
class Statement:
    """A conclusion: ``lead`` names its subject, ``text`` begins in lower case, ``link`` is the lead's."""

    lead: str
    text: str
    link: str = ""


@dataclass(frozen=True)
class Document:
    """A report: the protocol's title and description (by paragraphs), conclusions, and sections."""

    title: str
    description: tuple[str, ...]
    statements: tuple[Statement, ...]
    sections: tuple[Section, ...]

    def blocks(self) -> Iterator[Block]:
        for section in self.sections:
            yield from section.blocks
            for subsection in section.sections:
                yield from subsection.blocks

    @property
    def figures(self) -> list[Figure]:
        return [figure for block in self.blocks() if isinstance(block, Gallery) for figure in block.figures]

    @property
    def tables(self) -> list[Table]:
        return [block for block in self.blocks() if isinstance(block, Table)]
