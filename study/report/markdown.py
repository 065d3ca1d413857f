"""The report as GitHub Markdown."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from study.atomic import write_atomically
from study.errors import StudyError
from study.report.document import Block, Bullets, Code, Document, Gallery, Table
from study.report.figures.style import standalone

PAGE, FIGURES = "README.md", "figures"

# what would begin something else; an underscore within a word, a bracket without a link or "< 1" does not
_SPECIAL = re.compile(r"([\\*|~]|(?<![^\W_])_|_(?![^\W_])|<(?=[A-Za-z/!?])|(?<=\])\(|^[#>+-](?=\s)|&(?=\w+;|#))")


def check_page(option: str, folder: Path, own: str) -> None:
    """Check that no page of something else would be overwritten.

    Args:
        option: that named the folder.
        own: the file beside which the page lies that may be written again.

    Raises:
        StudyError: there is a page, and no such file.
    """
    if (folder / PAGE).is_file() and not (folder / own).is_file():
        raise StudyError(f"{option}: {folder} holds the page of something else; allowed: a new or an empty folder")


def write_page(document: Document, folder: Path) -> Path:
    """Write the page and its figures; the same document gives the same bytes.

    Returns:
        The path of the page.
    """
    for figure in document.figures:
        write_atomically(folder / FIGURES / f"{figure.name}.svg", standalone(figure.svg).encode())
    write_atomically(folder / PAGE, to_markdown(document).encode())
    return folder / PAGE


def to_markdown(document: Document) -> str:
    """The text of README.md."""
    parts = [f"# {escape(document.title)}", escape(document.answer)]
    for block in document.head:
        parts += markdown_blocks(block)
    for section in document.sections:
        parts.append(f"<details><summary><b>{escape(section.heading)}</b></summary>")
        for block in section.blocks:
            parts += markdown_blocks(block)
        parts.append("</details>")
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_blocks(block: Block) -> Iterator[str]:
    """The paragraphs, tables and images of a block, to be joined by empty lines."""
    match block:
        case str():
            yield escape(block)
        case Bullets():
            yield "\n".join(f"- **{_linked(escape(a), link)}:** {escape(text)}" for a, link, text in block.items)
        case Table():
            yield f"**{escape(block.caption)}**"
            yield "\n".join(_rows(block))
            yield from map(escape, block.notes)
        case Code():
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block.text)), default=0))
            yield f"{fence}{block.language}\n{block.text}\n{fence}"
        case Gallery():
            for figure in block.figures:
                yield f"![{escape(figure.alt)}]({FIGURES}/{figure.name}.svg)"
                yield escape(figure.caption)


def _rows(table: Table) -> Iterator[str]:
    yield _line(map(escape, table.headings))
    yield _line("---:" if kind == "number" else ":---" for kind in table.kinds)
    for row in table.rows:
        yield _line(_linked(escape(cell.text), cell.link) for cell in row)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _linked(text: str, link: str) -> str:
    return f"[{text}]({link})" if link else text


def escape(text: str) -> str:
    """Plain text that Markdown leaves alone; `code` stays code.

    Example:
        >>> print(escape("a*b | `a_b` a_b _c_ <d> <0.001 [1, 2]"))
        a\\*b \\| `a_b` a_b \\_c\\_ \\<d> <0.001 [1, 2]
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without a partner
        return _SPECIAL.sub(r"\\\1", text).replace("`", "\\`")
    return "`".join(part if index % 2 else _SPECIAL.sub(r"\\\1", part) for index, part in enumerate(parts))
