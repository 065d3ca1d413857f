"""The first screen: the picture that answers, and verdicts in a few rows."""

from study.protocol.settings import takes_strength
from study.report.analysis import Analysis
from study.report.document import Block, Figure, Gallery, Table
from study.report.sections.pairs_section import leading_pairs
from study.report.sections.published_section import verdict_table

MOST_ROWS = 8
FEWEST_VERDICTS = 3
"""Rows of published numbers beside pairs, if there are as many."""


def first_screen(analysis: Analysis, pictures: tuple[Figure, ...]) -> tuple[Block, ...]:
    gallery = (Gallery(pictures),) if pictures else ()
    return (*gallery, *_tables(analysis), analysis.status)


def _tables(analysis: Analysis) -> list[Table]:
    """Published numbers where there are any, else pairs; both where the protocol names pairs as well."""
    counted, named = len(analysis.counted), analysis.protocol.families
    pairs = leading_pairs(analysis, MOST_ROWS - min(FEWEST_VERDICTS, counted)) if named or not counted else None
    verdicts = verdict_table(analysis, MOST_ROWS - (len(pairs.rows) if pairs else 0)) if counted else None
    return [table for table in (verdicts, pairs) if table]


def is_about_strength(analysis: Analysis) -> bool:
    """Whether the study searched λ for several variants of one regularizer, so that curves over λ are its answer."""
    methods = analysis.protocol.methods
    searched = {choice.method for choice in analysis.selection.choices}
    return len(searched) > 1 == len({methods[name].kind for name in searched if takes_strength(methods[name])})
