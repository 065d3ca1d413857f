"""The report's tables as LaTeX; needs booktabs and graphicx."""

import re
from collections.abc import Iterator

from study.report.document import Document, Table

_PLAIN = '\\&%$#_{}~^<>−±λχ≥≤∞²–"'
_LATEX = (
    r"\textbackslash{} \& \% \$ \# \_ \{ \} \textasciitilde{} \textasciicircum{} "
    r"$<$ $>$ $-$ $\pm$ $\lambda$ $\chi$ $\geq$ $\leq$ $\infty$ $^2$ -- \textquotedbl{}"
)
_CHARACTERS = str.maketrans(dict(zip(_PLAIN, _LATEX.split(), strict=True)))
_ALIGNMENT = {"number": "r", "name": "l", "prose": "p{6cm}"}


def to_latex(document: Document) -> str:
    """The tables as one LaTeX file."""
    parts = [
        f"% Tables of \\textit{{{escape(document.title)}}}.",
        r"% Needs \usepackage{booktabs} and \usepackage{graphicx}; wide tables are shrunk to the width of the text.",
    ]
    return "\n".join([*parts, *("\n".join(_table(table)) for table in document.tables)]) + "\n"


def _table(table: Table) -> Iterator[str]:
    yield ""
    yield r"\begin{table}"
    yield r"  \centering"
    notes = "".join(f" {note if note.endswith('.') else f'{note}.'}" for note in table.notes)
    yield f"  \\caption{{{escape(f'{table.caption}.{notes}')}}}"
    yield f"  \\label{{tab:{table.name}}}"
    yield r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    yield f"  \\begin{{tabular}}{{{''.join(_ALIGNMENT[column.kind] for column in table.columns)}}}"
    yield r"    \toprule"
    yield f"    {_line(column.heading for column in table.columns)}"
    yield r"    \midrule"
    for row in table.rows:
        yield f"    {_line(cell.text for cell in row)}"
    yield r"    \bottomrule"
    yield r"  \end{tabular}}"
    yield r"\end{table}"


def _line(cells: Iterator[str]) -> str:
    return f"{' & '.join(map(_cell, cells))} \\\\"


def _cell(text: str) -> str:
    escaped = escape(text)
    return f"{{{escaped}}}" if escaped.startswith("[") else escaped  # \\[ would be an optional argument


def escape(text: str) -> str:
    """Plain text as LaTeX; `code` in typewriter.

    Example:
        >>> escape("50% of `online_ewc`")
        '50\\\\% of \\\\texttt{online\\\\_ewc}'
    """
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", text.translate(_CHARACTERS))
