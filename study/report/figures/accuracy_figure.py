"""Accuracy of each method: seeds, mean, interval and published number."""

from collections.abc import Mapping, Sequence

from matplotlib import figure as matplotlib_figure

from study.report.document import Figure
from study.report.figures.style import FONT, INK, MUTED, Look, draw, within_percent
from study.report.method_results import MethodResult
from study.report.number_formats import points


def accuracy_figure(
    scenario: str, results: Sequence[MethodResult], looks: Mapping[str, Look], published: Mapping[str, float]
) -> Figure:
    """One row for each method: mean with interval, a dot for each seed, a diamond for the published mean."""
    name, what = f"accuracy-{scenario}", f"Average accuracy, {scenario}-incremental"
    alt = f"{what}, in percent: {', '.join(f'{each.method} {points(each.accuracy.mean)}' for each in results)}."
    diamonds = ", hollow diamonds published means" if published else ""

    def paint(figure: matplotlib_figure.Figure) -> None:
        axes = figure.add_subplot()
        for row, result in enumerate(results):
            look, summary = looks[result.method], result.accuracy
            scores = list(result.scores.values())
            axes.plot(scores, [row + 0.28] * len(scores), "o", markersize=3, alpha=0.6, color=look.color, mew=0)
            axes.plot([summary.low, summary.high], [row, row], color=look.color, linewidth=2.4, solid_capstyle="butt")
            axes.plot(summary.mean, row, marker=look.marker, markersize=6.5, color=look.color)
            if result.method in published:
                mean = published[result.method]
                axes.plot(mean, row, marker="D", markersize=8, markerfacecolor="none", color=INK, mew=1.1)
            axes.text(1.02, row, points(summary.mean), transform=axes.get_yaxis_transform(), va="center")
        axes.set_yticks(range(len(results)), [result.method for result in results])
        axes.set_ylim(len(results) - 0.4, -0.55)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("average accuracy %")
        axes.set_xlim(*within_percent(*axes.get_xlim()))
        axes.text(
            1.02, -0.75, "mean", transform=axes.get_yaxis_transform(), va="center", fontsize=FONT - 1, color=MUTED
        )

    svg = draw(name, alt, 0.75 + 0.29 * len(results), paint)
    return Figure(name, f"{what}: means with 95% intervals, a small dot per seed{diamonds}.", alt, svg)
