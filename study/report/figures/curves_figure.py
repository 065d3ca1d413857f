"""Accuracy over the experiences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from study.report.figures.style import Look, draw, label_ends, margin_for, within_percent
from study.statistics import Summary


@dataclass(frozen=True)
class Curve:
    """One line: a summary after each experience, or a constant (joint training)."""

    method: str
    summaries: Sequence[Summary]


def curves_figure(name: str, alt: str, curves: Sequence[Curve], looks: Mapping[str, Look], title: str) -> str:
    """Lines over the experiences, labelled at their ends, with bands of 95% intervals; joint training is level."""
    opacity = min(0.16, 0.8 / len(curves))  # of bands: many on top of each other still let the lines be seen
    last = max(len(curve.summaries) for curve in curves)
    height = max(2.8, 1.03 + 0.19 * len(curves))

    def paint(figure: Figure) -> None:
        right = 1 - margin_for([curve.method for curve in curves]) - 0.05
        axes = figure.add_axes((0.15, 0.47 / height, right - 0.15, 1 - (0.47 + 0.3) / height))
        ends = []
        for curve in curves:
            look = looks[curve.method]
            summaries = curve.summaries if len(curve.summaries) > 1 else list(curve.summaries) * last
            x = range(1, last + 1)
            mean = [summary.mean for summary in summaries]
            axes.fill_between(
                x, [s.low for s in summaries], [s.high for s in summaries], color=look.color, alpha=opacity, linewidth=0
            )
            marker = look.marker if len(curve.summaries) > 1 and last <= 10 else None
            axes.plot(x, mean, color=look.color, linestyle=look.dashes, marker=marker, clip_on=False)
            ends.append((curve.method, mean[-1], look, last))
        axes.set_xlim(1 - 0.04 * (last - 1), last)
        axes.set_ylim(*within_percent(*axes.get_ylim()))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("experiences learned")
        axes.set_ylabel("accuracy %")
        axes.set_title(title)
        label_ends(axes, ends, 0.17 / (height - 0.77))

    return draw(name, alt, height, paint, layout=None)
