"""What a report consists of, before it is Markdown, HTML or LaTeX.

Texts are plain, but for `names and commands` between backticks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Mark = Literal["", "reproduced", "above", "below", "inconclusive", "significant", "problem"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what is shown, the same in all outputs.
        value: what the column is sorted by, in one unit for the whole column; None sorts last.
        mark: what the cell stands for, so that it can be set off beside saying so in words.
        link: a path from the page that the text leads to; in Markdown only.
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
        name: identifies it within the report: letters, digits and hyphens.
        caption: what it shows.
        columns, rows: as many cells in each row as there are columns.
        notes: sentences below it.
        folded: what stands in its place until it is asked for, where it is long; None shows it at once.
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
        alt: what one would see, for those who do not see it.
        svg: an ``<svg>`` element whose ids no other figure has.
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
    """Text to be copied as it is.

    Attributes:
        text: without a newline at its end.
        language: "sh" or "toml".
        folded: as of a table.
    """

    text: str
    language: str
    folded: str | None = None


Block = Table | Gallery | Paragraph | Code


@dataclass(frozen=True)
class Section:
    """A heading with what belongs to it.

    Attributes:
        name: identifies it within the report.
        heading: its title.
        blocks: before its subsections.
        sections: its subsections.
    """

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
    """A conclusion.

    Attributes:
        lead: what it is about, in a word or two.
        text: what there is to say, beginning with a small letter.
        link: as of a cell; from the lead.
    """

    lead: str
    text: str
    link: str = ""


@dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
        title: the protocol's.
        description: the protocol's, by paragraphs: what comes after the first can wait until after the answer.
        statements: conclusions, written by hand.
        sections: in order.
    """

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
