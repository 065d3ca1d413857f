"""Tables read back from what a report wrote, as a reader would see them."""

import html.parser
import re
from pathlib import Path

Rows = list[list[str]]  # the headings first


def markdown_tables(folder: Path) -> dict[str, Rows]:
    """By caption: the tables of README.md."""
    tables: dict[str, Rows] = {}
    caption = ""
    for line in (folder / "README.md").read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"\*\*([^*]*)\*\*", line):
            caption = _from_markdown(match[1])
        elif line.startswith("| ") and not re.match(r"\| :?-+:? \|", line):
            cells = re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |"))
            tables.setdefault(caption, []).append([_from_markdown(cell).strip() for cell in cells])
    return tables


def _from_markdown(text: str) -> str:
    return re.sub(r"\\([^\w\s])", r"\1", text)


def html_tables(folder: Path) -> dict[str, Rows]:
    """By caption: the tables of index.html."""
    parser = _Tables()
    parser.feed((folder / "index.html").read_text(encoding="utf-8"))
    return parser.tables


class _Tables(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, Rows] = {}
        self._caption = ""
        self._rows: Rows = []
        self._text: list[str] | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th", "caption"):
            self._text = []

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.tables[self._caption] = self._rows
        elif tag in ("td", "th", "caption") and self._text is not None:
            text = "".join(self._text).strip()
            if tag == "caption":
                self._caption = text
            else:
                self._rows[-1].append(text)
            self._text = None

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)


def row(tables: dict[str, Rows], caption: str, name: str) -> dict[str, str]:
    """A row by its first cell, as a dictionary by heading."""
    headings, *rows = tables[caption]
    (cells,) = [cells for cells in rows if cells[0] == name]
    return dict(zip(headings, cells, strict=True))
