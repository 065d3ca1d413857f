"""The first screen: the picture that answers, and verdicts in a few rows."""

from study.protocol.settings import takes_strength
from study.report.analysis import Analysis
from study.report.document import Block, Figure, Gallery
from study.report.sections.pairs_section import differing_table
from study.report.sections.published_section import verdict_table

MOST_ROWS = 8


def first_screen(analysis: Analysis, pictures: tuple[Figure, ...]) -> tuple[Block, ...]:
    table = verdict_table(analysis, MOST_ROWS) if analysis.counted else differing_table(analysis, MOST_ROWS)
    gallery = (Gallery(pictures),) if pictures else ()
    return (*gallery, *((table,) if table else ()), analysis.status)


def is_about_strength(analysis: Analysis) -> bool:
    """Whether the study searched λ for several variants of one regularizer, so that curves over λ are its answer."""
    methods = analysis.protocol.methods
    searched = {choice.method for choice in analysis.selection.choices}
    return len(searched) > 1 == len({methods[name].kind for name in searched if takes_strength(methods[name])})
