"""Accuracy over the experiences, matrices, and accuracy against memory."""

from study.protocol.settings import Scenario
from study.report.analysis import Analysis
from study.report.document import Figure, Gallery, Paragraph, Section, section_by_scenario
from study.report.figures.curves_figure import Curve, curves_figure
from study.report.figures.matrices_figure import matrices_figure
from study.report.figures.memory_figure import memory_figure
from study.report.figures.style import looks
from study.report.method_results import MethodResult
from study.report.number_formats import BYTES, points, quantity


def curves_section(analysis: Analysis) -> Section | None:
    subsections = []
    for scenario in analysis.scenarios:
        finished = analysis.finished(scenario)
        figures = [*_over_time(analysis, scenario, finished), *_matrices(scenario, finished)]
        figures += _memory(analysis, scenario, finished)
        if figures:
            heading = f"{scenario.capitalize()}-incremental"
            subsections.append(Section(f"curves-{scenario}", heading, (Gallery(tuple(figures)),)))
    if not subsections:
        return None
    text = (
        "Lines are means over the seeds, bands their 95% intervals. In the matrices, rows are what was learned and "
        "columns what is tested: below the diagonal is the past, above it what is yet to come."
    )
    return section_by_scenario("curves", "Over the experiences", [Paragraph(text)], subsections)


def _over_time(analysis: Analysis, scenario: Scenario, finished: list[MethodResult]) -> list[Figure]:
    sequential = [result for result in finished if result.is_sequential]
    if not sequential:
        return []
    found = []
    for name, title, caption, what in (
        (f"curve-{scenario}", "mean over the experiences seen", "Accuracy, mean over the experiences seen", "curve"),
        (f"first-{scenario}", "on the first experience", "Accuracy on the first experience", "first_experience"),
    ):
        curves = [Curve(result.method, getattr(result, what)) for result in sequential]
        ends = ", ".join(f"{curve.method} {points(curve.summaries[-1].mean)}" for curve in curves)
        if what == "curve":  # at the end joint training has seen the same
            joint = [result for result in finished if not result.is_sequential]
            curves += [Curve(result.method, [result.accuracy]) for result in joint]
        alt = f"{caption}, {scenario}-incremental, after the last: {ends}."
        svg = curves_figure(name, alt, curves, looks(analysis.protocol.methods), title)
        found.append(Figure(name, f"{caption}, {scenario}-incremental.", alt, svg))
    return found


def _matrices(scenario: Scenario, finished: list[MethodResult]) -> list[Figure]:
    matrices = [(result.method, result.matrix) for result in finished if result.is_sequential]
    if not matrices:
        return []
    caption = f"Accuracy matrices, {scenario}-incremental, mean over the seeds."
    experiences = matrices[0][1].shape[1]
    alt = f"Heat maps of the accuracy on each of {experiences} experiences after each, for {len(matrices)} methods."
    svg = matrices_figure(f"matrices-{scenario}", alt, matrices)
    return [Figure(f"matrices-{scenario}", caption, alt, svg)]


def _memory(analysis: Analysis, scenario: Scenario, finished: list[MethodResult]) -> list[Figure]:
    holding = [result for result in finished if result.plugin_memory]
    if len(holding) < 2:
        return []
    alt = f"Average accuracy and memory, {scenario}-incremental: " + ", ".join(
        f"{result.method} {points(result.accuracy.mean)}% with {quantity(result.plugin_memory, BYTES)}"
        for result in holding
    )
    caption = (
        f"What memory buys, {scenario}-incremental: average accuracy against the bytes that the method has to keep, "
        "scratch not included. Dashed lines: methods that keep no state (joint and cumulative training keep all data, "
        "naive none)."
    )
    svg = memory_figure(f"memory-{scenario}", f"{alt}.", finished, looks(analysis.protocol.methods))
    return [Figure(f"memory-{scenario}", caption, f"{alt}.", svg)]
