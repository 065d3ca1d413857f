"""A report before it is Markdown, HTML or LaTeX. Texts are plain, with `code` between backticks."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from study.report.number_formats import NOTHING, with_interval
from study.statistics import Summary

Mark = Literal["", "reproduced", "above", "below", "inconclusive", "significant", "problem"]
Row = TypeVar("Row")


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


def word(text: str, mark: Mark = "", link: str = "") -> Cell:
    """A cell that sorts by its text."""
    return Cell(text, text or None, mark, link)


def number(value: float | None, text: Callable[[float], str] = str, mark: Mark = "") -> Cell:
    """A cell that sorts by its value; a dash where there is none."""
    missing = value is None or math.isnan(value)
    return Cell(NOTHING) if missing else Cell(text(value), value, mark)


def mean_cell(summary: Summary | None) -> Cell:
    """A mean in percent with its interval."""
    return Cell(NOTHING) if summary is None else Cell(with_interval(summary), summary.mean)


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column of a table.

    Attributes:
        heading: with the unit.
        cell: the cell of a row.
        kind: "number" (aligned right), "name", or "prose" (may break over lines).
    """

    heading: str
    cell: Callable[[Row], Cell]
    kind: Literal["number", "name", "prose"] = "number"


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row.

    Attributes:
        name: id within the report: letters, digits and hyphens.
        caption: what it shows.
        columns: headings and kinds.
        rows: as many cells in each row as columns.
        notes: sentences below it.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def table_of(
    name: str, caption: str, rows: Iterable[Row], *columns: Column[Row], notes: Iterable[str] = (), keep: int = 1
) -> Table:
    """A table with one row for each of ``rows``; columns without content, but for the first ``keep``, are left out."""
    cells = [[column.cell(row) for column in columns] for row in rows]
    kept = [i for i in range(len(columns)) if i < keep or any(row[i].text not in ("", NOTHING) for row in cells)]
    shown = tuple(tuple(row[i] for i in kept) for row in cells)
    return Table(name, caption, tuple(columns[i] for i in kept), shown, tuple(notes))


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
class Bullets:
    """A list; each item has a subject, its link (Markdown only) and a text."""

    items: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Code:
    """A code block in ``language`` "sh" or "toml"."""

    text: str
    language: str


Block = Table | Gallery | Paragraph | Bullets | Code


@dataclass(frozen=True)
class Section:
    """A section, folded on the page; ``name`` is its id."""

    name: str
    heading: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A report: title, one sentence that answers, what the first screen shows, and folded sections."""

    title: str
    answer: str
    head: tuple[Block, ...]
    sections: tuple[Section, ...]

    def blocks(self) -> Iterator[Block]:
        yield from self.head
        for section in self.sections:
            yield from section.blocks

    @property
    def figures(self) -> list[Figure]:
        return [figure for block in self.blocks() if isinstance(block, Gallery) for figure in block.figures]

    @property
    def tables(self) -> list[Table]:
        return [block for block in self.blocks() if isinstance(block, Table)]
