"""Accuracy over the experiences, and matrices."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from study.protocol.settings import Scenario
from study.report.analysis import Analysis
from study.report.document import Figure, Gallery, Paragraph, Section
from study.report.figures.curves_figure import Curve, curves_figure
from study.report.figures.matrices_figure import matrices_figure
from study.report.figures.style import looks
from study.report.number_formats import points

CURVES = {
    "curve": ("curve", "mean over the experiences seen", "Accuracy, mean over the experiences seen"),
    "first": ("first_experience", "on the first experience", "Accuracy on the first experience"),
}
"""By name of the figure: a result's property, a title, a caption."""


def curves_section(analysis: Analysis) -> Section | None:
    found = {
        scenario: [*_curves(analysis, scenario), *_matrices(analysis, scenario)] for scenario in analysis.scenarios
    }
    figures = tuple(figure for of_scenario in found.values() for figure in of_scenario)
    if not figures:
        return None
    text = (
        "Lines are means over the seeds, bands their 95% intervals. In the matrices, rows are the experiences learned "
        "and columns those tested: below the diagonal is the past, above it the future. Figures in which all methods "
        "lie within a point of each other are left out."
    )
    return Section("curves", "Over the experiences", (Paragraph(text), Gallery(figures)))


def _curves(analysis: Analysis, scenario: Scenario) -> list[Figure]:
    finished = analysis.finished(scenario)
    found = []
    for name, (what, title, caption) in CURVES.items():
        curves = [Curve(result.method, getattr(result, what)) for result in finished if result.is_sequential]
        if not _differ([[summary.mean for summary in curve.summaries] for curve in curves]):
            continue
        ends = ", ".join(f"{curve.method} {points(curve.summaries[-1].mean)}" for curve in curves)
        if name == "curve":  # at the end joint training has seen the same
            curves += [Curve(result.method, [result.accuracy]) for result in finished if not result.is_sequential]
        alt = f"{caption}, {scenario}-incremental, after the last: {ends}."
        svg = curves_figure(f"{name}-{scenario}", alt, curves, looks(analysis.protocol.methods), title)
        found.append(Figure(f"{name}-{scenario}", f"{caption}, {scenario}-incremental.", alt, svg))
    return found


def _matrices(analysis: Analysis, scenario: Scenario) -> list[Figure]:
    matrices = [(result.method, result.matrix) for result in analysis.finished(scenario) if result.is_sequential]
    if not _differ([matrix for _, matrix in matrices]):
        return []
    caption = f"Accuracy matrices, {scenario}-incremental, mean over the seeds."
    experiences = matrices[0][1].shape[1]
    alt = f"Heat maps of the accuracy on each of {experiences} experiences after each, for {len(matrices)} methods."
    svg = matrices_figure(f"matrices-{scenario}", alt, matrices)
    return [Figure(f"matrices-{scenario}", caption, alt, svg)]


def _differ(values: Sequence[ArrayLike]) -> bool:
    """Whether a figure of these shows more than one line: a single method, or some a point apart somewhere."""
    return len(values) == 1 or (len(values) > 1 and float(np.ptp(values, axis=0).max()) >= 1.0)
