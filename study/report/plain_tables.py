"""Terminal tables whose text is never read as markup."""

from rich.table import Column, Table
from rich.text import Text


def plain_table(title: str, *columns: Column | str, **options: object) -> Table:
    """A table with its title above at the left; columns and options as of :class:`rich.table.Table`."""
    return Table(*columns, title=Text(title, style="table.title"), title_justify="left", **options)


def number_columns(*headings: str) -> list[Column]:
    """Right-aligned columns, as wide as their headings' longest word."""
    return [Column(heading, justify="right", min_width=max(map(len, heading.split()))) for heading in headings]


def add_plain_row(table: Table, *cells: str) -> None:
    table.add_row(*map(Text, cells))
