"""Accuracy over the experiences, and matrices."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from study.protocol.settings import Scenario
from study.report.analysis import Analysis
from study.report.document import Figure, Gallery, Section
from study.report.figures.curves_figure import Curve, curves_figure
from study.report.figures.matrices_figure import matrices_figure
from study.report.figures.style import looks
from study.report.number_formats import points


def curves_section(analysis: Analysis) -> Section | None:
    found = (draw(analysis, scenario) for scenario in analysis.scenarios for draw in (_curves, _matrices))
    figures = tuple(figure for figure in found if figure is not None)
    if not figures:
        return None
    text = (
        "Lines are means over the seeds, bands their 95% intervals. In the matrices, rows are the experiences learned "
        "and columns those tested: below the diagonal is the past, above it the future. Figures in which all methods "
        "lie within a point of each other are left out."
    )
    return Section("curves", "Over the experiences", (text, Gallery(figures)))


def _curves(analysis: Analysis, scenario: Scenario) -> Figure | None:
    finished = analysis.finished(scenario)
    curves = [Curve(result.method, result.curve) for result in finished if result.is_sequential]
    if not _differ([[summary.mean for summary in curve.summaries] for curve in curves]):
        return None
    ends = ", ".join(f"{curve.method} {points(curve.summaries[-1].mean)}" for curve in curves)
    curves += [Curve(result.method, [result.accuracy]) for result in finished if not result.is_sequential]
    name, caption = f"curve-{scenario}", f"Accuracy, mean over the experiences seen, {scenario}-incremental"
    alt = f"{caption}, after the last: {ends}."
    svg = curves_figure(name, alt, curves, looks(analysis.protocol.methods), "mean over the experiences seen")
    return Figure(name, f"{caption}.", alt, svg)


def _matrices(analysis: Analysis, scenario: Scenario) -> Figure | None:
    matrices = [(result.method, result.matrix) for result in analysis.finished(scenario) if result.is_sequential]
    if not _differ([matrix for _, matrix in matrices]):
        return None
    name, caption = f"matrices-{scenario}", f"Accuracy matrices, {scenario}-incremental, mean over the seeds."
    experiences = matrices[0][1].shape[1]
    alt = f"Heat maps of the accuracy on each of {experiences} experiences after each, for {len(matrices)} methods."
    return Figure(name, caption, alt, matrices_figure(name, alt, matrices))


def _differ(values: Sequence[ArrayLike]) -> bool:
    """Whether a figure of these shows more than one line: a single method, or some a point apart somewhere."""
    return len(values) == 1 or (len(values) > 1 and float(np.ptp(values, axis=0).max()) >= 1.0)
