"""Time of runs, by phase."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from study.report.figures.style import MUTED, Look, draw
from study.report.method_results import MethodResult
from study.report.number_formats import SECONDS, unit_for

PHASES = {"training": 1.0, "consolidation": 0.6, "evaluation": 0.25}
"""Of a run, with how opaque each is drawn."""


def time_figure(name: str, alt: str, results: Sequence[MethodResult], looks: Mapping[str, Look]) -> str:
    """One bar for each method: mean time of a run, split into training, consolidation and evaluation."""
    totals = [sum(result.mean_seconds(phase) or 0.0 for phase in PHASES) for result in results]
    unit = unit_for(totals, SECONDS)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set_yticks(range(len(results)), [result.method for result in results])
        axes.set_ylim(len(results) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
        for row, (result, total) in enumerate(zip(results, totals, strict=True)):
            left = 0.0
            for phase, opacity in PHASES.items():
                width = (result.mean_seconds(phase) or 0.0) / unit.size
                axes.barh(row, width, 0.62, left, color=looks[result.method].color, alpha=opacity, linewidth=0)
                left += width
            axes.annotate(unit.text(total), (left, row), xytext=(3, 0), textcoords="offset points", va="center")
        axes.set_xlabel(f"time of a run, {unit.name}")
        handles = [Patch(color=MUTED, alpha=opacity, linewidth=0, label=phase) for phase, opacity in PHASES.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=3, handlelength=1.2, columnspacing=1.4)

    return draw(name, alt, 1.0 + 0.25 * len(results), paint)
