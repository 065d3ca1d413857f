"""Tables for the terminal in which every text is shown as it is: a ``[draft]`` in a title is no markup."""

from rich.table import Column, Table
from rich.text import Text


def plain_table(title: str, *columns: Column | str, **options: object) -> Table:
    """A table with a title and columns as they are.

    Args:
        title: shown above it, at the left.
        columns, options: as :class:`rich.table.Table` has them.
    """
    return Table(*columns, title=Text(title, style="table.title"), title_justify="left", **options)


def number_columns(*headings: str) -> list[Column]:
    """Right-aligned columns, as wide as their headings' longest word."""
    return [Column(heading, justify="right", min_width=max(map(len, heading.split()))) for heading in headings]


def add_plain_row(table: Table, *cells: str) -> None:
    table.add_row(*map(Text, cells))
