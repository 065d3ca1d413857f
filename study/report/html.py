"""The report as one self-contained HTML page."""

import html
import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from study.report.document import Cell, Document
from study.report.figures.style import IN_THE_DARK, PAPER, css

_CODE = re.compile(r"`([^`]*)`")
_INTERVAL = re.compile(r" (\[[^\]]*\])$")
_ADDRESS = re.compile(r"https?://[^\s<>\"']*[\w/]")


def to_html(document: Document) -> str:
    environment = Environment(
        loader=PackageLoader("study.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"inline": inline, "cell": cell_text, "kind": lambda it: type(it).__name__}
    return environment.get_template("report.html").render(
        document=document, paper_dark=IN_THE_DARK[PAPER], figure_style=Markup(css())
    )


def inline(text: str) -> Markup:
    """Text with `code` and addresses as elements, and all else escaped.

    Example:
        >>> str(inline("`a` < b"))
        '<code>a</code> &lt; b'
    """
    escaped = html.escape(text, quote=False)
    escaped = _ADDRESS.sub(lambda match: f'<a href="{html.escape(match[0])}">{match[0]}</a>', escaped)
    return Markup(_CODE.sub(r"<code>\1</code>", escaped))


def cell_text(cell: Cell) -> Markup:
    """A cell's text, with a trailing interval as an element of its own."""
    return Markup(_INTERVAL.sub(r' <span class="interval">\1</span>', str(inline(cell.text))))
