"""Text and tables for terminals of any width and for files."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

UNLIMITED = 100_000  # columns


def console(*, stderr: bool = False) -> Console:
    """A console that wraps text in a terminal, and nowhere else."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made.width = UNLIMITED
    return made


def print_table(table: Table) -> None:
    """Print a table whole: as it is in a terminal that is wide enough, else row by row; without one as Markdown."""
    to = console()
    if to.is_terminal and _fit(table, to):
        to.print(table)
        return
    content = _row_by_row(table, to.width) if to.is_terminal else _markdown(table)
    parts = [f"{table.title}:" if table.title else "", content, str(table.caption or "")]
    to.print(Text("\n\n".join(part for part in parts if part) + "\n"))


def _fit(table: Table, to: Console) -> bool:
    """Set widths that fit into the terminal and break no word; False if there are none."""
    wide = to.options.update_width(UNLIMITED)
    ranges = [[Measurement.get(to, wide, cell) for cell in (column.header, *column.cells)] for column in table.columns]
    least, widths = ([max(getattr(m, end) for m in of_column) for of_column in ranges] for end in Measurement._fields)
    room = to.width - (to.measure(table, options=wide).minimum - sum(least))
    while sum(widths) > room:
        widest = max(range(len(widths)), key=lambda index: widths[index] - least[index])
        if widths[widest] == least[widest]:
            return False
        widths[widest] -= 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width = width
    return True


def _markdown(table: Table) -> str:
    headings, rows = _rows(table)
    marks = ["---:" if column.justify == "right" else ":---" for column in table.columns]
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, marks, *rows))


def _row_by_row(table: Table, width: int) -> str:
    headings, rows = _rows(table)
    entries = ["\n  ".join(f"{heading}: {cell}" for heading, cell in zip(headings, row, strict=True)) for row in rows]
    note = f"(The table is wider than {width} columns: each row is a list here.)"
    return "\n".join([*entries, note])


def _rows(table: Table) -> tuple[list[str], list[list[str]]]:
    """Headings, and the cells of each row."""
    cells = ([str(cell).replace("|", r"\|") for cell in column.cells] for column in table.columns)
    return [str(column.header) for column in table.columns], list(map(list, zip(*cells, strict=True)))
