"""Accuracy over the experiences, and matrices."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from study.report.analysis import Analysis
from study.report.document import Figure, Gallery, Section
from study.report.figures.curves_figure import Curve, curves_figure
from study.report.figures.matrices_figure import matrices_figure
from study.report.figures.style import looks


def curves_section(analysis: Analysis) -> Section | None:
    of_methods, figures = looks(analysis.protocol.methods), list[Figure]()
    for scenario in analysis.scenarios:
        sequential = [result for result in analysis.finished(scenario) if result.is_sequential]
        if _differ([[summary.mean for summary in result.curve] for result in sequential]):
            level = [result for result in analysis.finished(scenario) if not result.is_sequential]
            curves = [Curve(result.method, result.curve or [result.accuracy]) for result in (*sequential, *level)]
            figures.append(curves_figure(scenario, curves, of_methods))
        if _differ([result.matrix for result in sequential]):
            figures.append(matrices_figure(scenario, [(result.method, result.matrix) for result in sequential]))
    if not figures:
        return None
    text = (
        "Lines are means over the seeds, bands their 95% intervals. In the matrices, rows are the experiences learned "
        "and columns those tested: below the diagonal is the past, above it the future. Figures in which all methods "
        "lie within a point of each other are left out."
    )
    return Section("curves", "Over the experiences", (text, Gallery(tuple(figures))))


def _differ(values: Sequence[ArrayLike]) -> bool:
    """Whether a figure of these shows more than one line: a single method, or some a point apart somewhere."""
    return len(values) == 1 or (len(values) > 1 and float(np.ptp(values, axis=0).max()) >= 1.0)
