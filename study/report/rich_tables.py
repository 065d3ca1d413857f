"""A table on the terminal; no text of it is read as markup."""

from rich.table import Column, Table
from rich.text import Text

from study.report import document


def to_terminal(table: document.Table, **options: object) -> Table:
    """The caption above, notes below; numbers at the right. Options are those of :class:`rich.table.Table`."""
    found = Table(
        *map(_column, table.headings, table.kinds),
        title=Text(table.caption, style="table.title"),
        title_justify="left",
        caption=Text(" ".join(table.notes)) if table.notes else None,
        caption_justify="left",
        **options,
    )
    for row in table.rows:
        found.add_row(*(Text(cell.text) for cell in row))
    return found


def _column(heading: str, kind: str) -> Column:
    if kind != "number":
        return Column(heading, overflow="fold")
    return Column(heading, justify="right", min_width=max(map(len, heading.split())))
