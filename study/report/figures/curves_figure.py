"""Accuracy over the experiences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib import figure as matplotlib_figure
from matplotlib.ticker import MaxNLocator

from study.report.document import Figure
from study.report.figures.style import Look, band_opacity, draw, within_percent
from study.report.number_formats import points
from study.statistics import Summary


@dataclass(frozen=True)
class Curve:
    """One line: a summary after each experience, or a constant (joint training)."""

    method: str
    summaries: Sequence[Summary]


def curves_figure(scenario: str, curves: Sequence[Curve], looks: Mapping[str, Look]) -> Figure:
    """Lines over the experiences with bands of 95% intervals; joint training is level."""
    name, what = f"curve-{scenario}", f"Accuracy, mean over the experiences seen, {scenario}-incremental"
    ends = (f"{curve.method} {points(curve.summaries[-1].mean)}" for curve in curves)
    alt = f"{what}, after the last: {', '.join(ends)}."
    last = max(len(curve.summaries) for curve in curves)

    def paint(figure: matplotlib_figure.Figure) -> None:
        axes = figure.add_subplot()
        for curve in curves:
            look = looks[curve.method]
            summaries = curve.summaries if len(curve.summaries) > 1 else list(curve.summaries) * last
            x, low, high = range(1, last + 1), [s.low for s in summaries], [s.high for s in summaries]
            axes.fill_between(x, low, high, color=look.color, alpha=band_opacity(len(curves)), linewidth=0)
            style = {"color": look.color, "linestyle": look.dashes, "marker": look.marker, "clip_on": False}
            means = [summary.mean for summary in summaries]
            axes.plot(x, means, label=curve.method, markevery=max(1, last // 10), **style)
        axes.set_ylim(*within_percent(*axes.get_ylim()))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("experiences learned")
        axes.set_ylabel("mean accuracy %")
        figure.legend(loc="outside lower center", ncols=3)

    return Figure(name, f"{what}.", alt, draw(name, alt, 2.9 + 0.2 * (len(curves) // 3), paint))
