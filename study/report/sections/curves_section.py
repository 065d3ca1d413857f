"""Accuracy over the experiences, and matrices."""

from study.protocol.settings import Scenario
from study.report.analysis import Analysis
from study.report.document import Figure, Gallery, Paragraph, Section
from study.report.figures.curves_figure import Curve, curves_figure
from study.report.figures.matrices_figure import matrices_figure
from study.report.figures.style import looks
from study.report.number_formats import points


def curves_section(analysis: Analysis) -> Section | None:
    figures: list[Figure] = []
    for scenario in analysis.scenarios:
        figures += [*_over_time(analysis, scenario), *_matrices(analysis, scenario)]
    if not figures:
        return None
    text = (
        "Lines are means over the seeds, bands their 95% intervals. In the matrices, rows are the experiences learned "
        "and columns those tested: below the diagonal is the past, above it the future."
    )
    return Section("curves", "Over the experiences", (Paragraph(text), Gallery(tuple(figures))))


def _over_time(analysis: Analysis, scenario: Scenario) -> list[Figure]:
    finished = analysis.finished(scenario)
    sequential = [result for result in finished if result.is_sequential]
    if not sequential:
        return []
    found = []
    for name, what, title in (
        ("curve", "curve", "mean over the experiences seen"),
        ("first", "first_experience", "on the first experience"),
    ):
        curves = [Curve(result.method, getattr(result, what)) for result in sequential]
        ends = ", ".join(f"{curve.method} {points(curve.summaries[-1].mean)}" for curve in curves)
        if name == "curve":  # at the end joint training has seen the same
            curves += [Curve(result.method, [result.accuracy]) for result in finished if not result.is_sequential]
        caption = f"Accuracy {title}, {scenario}-incremental"
        alt = f"{caption}, after the last: {ends}."
        svg = curves_figure(f"{name}-{scenario}", alt, curves, looks(analysis.protocol.methods), title)
        found.append(Figure(f"{name}-{scenario}", f"{caption}.", alt, svg))
    return found


def _matrices(analysis: Analysis, scenario: Scenario) -> list[Figure]:
    matrices = [(result.method, result.matrix) for result in analysis.finished(scenario) if result.is_sequential]
    if not matrices:
        return []
    caption = f"Accuracy matrices, {scenario}-incremental, mean over the seeds."
    experiences = matrices[0][1].shape[1]
    alt = f"Heat maps of the accuracy on each of {experiences} experiences after each, for {len(matrices)} methods."
    svg = matrices_figure(f"matrices-{scenario}", alt, matrices)
    return [Figure(f"matrices-{scenario}", caption, alt, svg)]
