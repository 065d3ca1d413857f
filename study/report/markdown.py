"""The report as GitHub Markdown."""

import re
from collections.abc import Iterator

from study.report.document import Block, Cell, Code, Document, Gallery, Paragraph, Section, Table

# what would begin something else; an underscore within a word, a bracket without a link or "< 1" does not
_SPECIAL = re.compile(r"([\\*|~]|(?<![^\W_])_|_(?![^\W_])|<(?=[A-Za-z/!?])|(?<=\])\(|^[#>+-](?=\s)|&(?=\w+;|#))")
_ALIGNMENT = {"number": "---:", "name": ":---", "prose": ":---"}


def to_markdown(document: Document) -> str:
    """The text of README.md, for a folder with ``figures``."""
    first, *rest = map(escape, document.description)
    parts = [f"# {escape(document.title)}", first, _statements(document), *rest]
    for section in document.sections:
        parts += _section(section, 2)
    return "\n\n".join(part for part in parts if part) + "\n"


def _statements(document: Document) -> str:
    return "\n".join(
        f"- **{_linked(escape(statement.lead), statement.link)}:** {escape(statement.text)}"
        for statement in document.statements
    )


def _section(section: Section, level: int) -> Iterator[str]:
    yield f"{'#' * level} {escape(section.heading)}"
    for block in section.blocks:
        yield from _block(block)
    for subsection in section.sections:
        yield from _section(subsection, level + 1)


def _block(block: Block) -> Iterator[str]:
    match block:
        case Paragraph():
            yield escape(block.text)
        case Table():
            yield from _folded(block.folded, _table(block))
        case Code():
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block.text)), default=0))
            yield from _folded(block.folded, [f"{fence}{block.language}\n{block.text}\n{fence}"])
        case Gallery():
            for figure in block.figures:
                yield f"![{escape(figure.alt)}](figures/{figure.name}.svg)"
                yield escape(figure.caption)


def _folded(summary: str | None, parts: list[str]) -> list[str]:
    if summary is None:
        return parts
    return [f"<details><summary>{escape(summary)}</summary>", *parts, "</details>"]


def _table(table: Table) -> list[str]:
    lines = [
        _line([escape(column.heading) for column in table.columns]),
        _line([_ALIGNMENT[column.kind] for column in table.columns]),
        *(_line([_cell(cell) for cell in row]) for row in table.rows),
    ]
    return [f"**{escape(table.caption)}**", "\n".join(lines), *map(escape, table.notes)]


def _cell(cell: Cell) -> str:
    return _linked(escape(cell.text), cell.link)


def _linked(text: str, link: str) -> str:
    return f"[{text}]({link})" if link else text


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


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
