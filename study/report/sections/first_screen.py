"""What stands above the fold: the picture that answers, and verdicts in a few rows."""

from study.protocol.settings import takes_strength
from study.report.analysis import Analysis
from study.report.document import Block, Figure, Gallery, Paragraph
from study.report.sections.lambda_section import lambda_figures
from study.report.sections.pairs_section import differing_table
from study.report.sections.published_section import verdict_table
from study.report.sections.results_section import accuracy_figures

MOST_ROWS = 8


def first_screen(analysis: Analysis) -> tuple[Block, ...]:
    pictures = answering_figures(analysis)
    table = verdict_table(analysis, MOST_ROWS) if analysis.published else differing_table(analysis, MOST_ROWS)
    blocks: list[Block] = [Gallery(pictures)] if pictures else []
    return (*blocks, *([table] if table else []), Paragraph(analysis.status))


def answering_figures(analysis: Analysis) -> tuple[Figure, ...]:
    """Accuracy; over λ where the study searched it for several variants of one regularizer."""
    methods = analysis.protocol.methods
    searched = {choice.method for choice in analysis.selection.choices}
    kinds = {methods[name].kind for name in searched if takes_strength(methods[name])}
    return lambda_figures(analysis) if len(searched) > 1 == len(kinds) else accuracy_figures(analysis)
