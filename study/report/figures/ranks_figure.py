"""The critical-difference figure of Demšar 2006."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from study.report.figures.style import INK, MUTED, Look, draw
from study.statistics import FriedmanResult


def ranks_figure(name: str, alt: str, methods: Sequence[str], result: FriedmanResult, looks: Mapping[str, Look]) -> str:
    """One row for each method at its average rank; bars join those that do not differ significantly."""
    averages, groups = result.average_ranks, result.groups
    order = sorted(range(len(averages)), key=averages.__getitem__)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for row, index in enumerate(order):
            look = looks[methods[index]]
            axes.plot(averages[index], row, marker=look.marker, markersize=6.5, color=look.color)
        for level, group in enumerate(groups):
            ends = averages[group[0]] - 0.05, averages[group[-1]] + 0.05
            axes.plot(ends, [-1.0 - 0.45 * level] * 2, color=INK, linewidth=2.6, solid_capstyle="butt")
        top = -1.4 - 0.45 * len(groups)
        difference = result.critical_difference
        axes.plot([1, 1 + difference], [top, top], color=MUTED, linewidth=1.2, marker="|", markersize=7)
        label = f"critical difference {difference:.2f}"
        axes.annotate(label, (1, top), xytext=(0, 5), textcoords="offset points", va="bottom")
        axes.set_yticks(range(len(order)), [methods[index] for index in order])
        axes.set_ylim(len(order) - 0.4, top - 1.1)
        axes.set_xlim(0.8, len(averages) + 0.2)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("average rank (1 = highest accuracy)")

    return draw(name, alt, 1.3 + 0.25 * len(order) + 0.12 * len(groups), paint)
