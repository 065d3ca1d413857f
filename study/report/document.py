"""A report before it is Markdown, HTML or a table on the terminal. Texts are plain, with `code` between backticks."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Generic, Literal, TypeVar

from study.report.number_formats import NOTHING, with_interval
from study.statistics import Summary

Mark = Literal["", "reproduced", "above", "below", "inconclusive", "significant", "problem"]
Row = TypeVar("Row")
_LONGEST_NAME = 40  # characters; longer text may break over lines


@dataclass(frozen=True)
class Cell:
    """A cell: its text, a sort key in the column's unit (None sorts last), a highlight, a link (Markdown only)."""

    text: str
    value: float | str | None = None
    mark: Mark = ""
    link: str = ""


def mean_with_range(values: Sequence[float], text: Callable[[float], str], middle: float | None = None) -> Cell:
    """The mean, or what else is in the middle, with the least and the largest."""
    middle = mean(values) if middle is None else middle
    shown, *bounds = map(text, (middle, min(values), max(values)))
    return Cell(shown if {*bounds} == {shown} else f"{shown} [{', '.join(bounds)}]", middle)


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column: its heading with the unit, the content for a row, and the format of its numbers.

    Content is a text, a number, a mean in percent with its interval, or a cell. A dash stands for None.
    """

    heading: str
    content: Callable[[Row], Cell | Summary | str | float | None]
    format: Callable[[float], str] = str

    def cell(self, row: Row) -> Cell:
        match self.content(row):
            case Cell() as cell:
                return cell
            case Summary() as mean:
                return Cell(with_interval(mean.mean, mean.low, mean.high), mean.mean)
            case str() as text:
                return Cell(text, text or None)
            case number:
                missing = number is None or math.isnan(number)
                return Cell(NOTHING) if missing else Cell(self.format(number), number)


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row.

    Attributes:
        name: id within the report: letters, digits and hyphens.
        kinds: of the columns: "number" (aligned right), "name", or "prose" (may break over lines).
        notes: sentences below it.
    """

    name: str
    caption: str
    headings: tuple[str, ...]
    kinds: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def table_of(
    name: str, caption: str, rows: Iterable[Row], *columns: Column[Row], notes: Iterable[str] = (), keep: int = 1
) -> Table:
    """A table with one row for each of ``rows``; columns without content, but for the first ``keep``, are left out."""
    cells = [[column.cell(row) for column in columns] for row in rows]
    kept = [i for i in range(len(columns)) if i < keep or any(row[i].text not in ("", NOTHING) for row in cells)]
    return Table(
        name,
        caption,
        tuple(columns[i].heading for i in kept),
        tuple(_kind([row[i] for row in cells]) for i in kept),
        tuple(tuple(row[i] for i in kept) for row in cells),
        tuple(notes),
    )


def _kind(cells: Sequence[Cell]) -> str:
    if not any(isinstance(cell.value, str) for cell in cells):
        return "number"
    return "prose" if max(len(cell.text) for cell in cells) > _LONGEST_NAME else "name"


@dataclass(frozen=True)
class Figure:
    """A figure: the name of its file without ".svg", and an ``<svg>`` element with unique ids."""

    name: str
    caption: str
    alt: str
    svg: str


@dataclass(frozen=True)
class Gallery:
    """Figures in a row where the page is wide enough."""

    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Bullets:
    """A list; each item has a subject, its link (Markdown only) and a text."""

    items: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Code:
    """A code block in ``language`` "sh" or "toml"."""

    text: str
    language: str


Block = str | Table | Gallery | Bullets | Code
"""Text is a paragraph."""


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

    @property
    def figures(self) -> list[Figure]:
        blocks = [*self.head, *(block for section in self.sections for block in section.blocks)]
        return [figure for block in blocks if isinstance(block, Gallery) for figure in block.figures]
