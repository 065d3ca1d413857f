"""What each method reached, at a glance: seeds, mean and interval, and what was published."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from study.protocol import PublishedNumber
from study.reporting.figures.style import FONT, INK, Look, draw
from study.reporting.numbers import points
from study.reporting.results import MethodResult


def accuracy_figure(
    name: str,
    alt: str,
    results: Sequence[MethodResult],
    looks: Mapping[str, Look],
    published: Mapping[str, PublishedNumber],
) -> str:
    """A row a method: small dots are seeds, the large one their mean with its interval, a diamond what was published.

    Args:
        name, alt: as :func:`draw` has them.
        results: of one scenario, those without a finished run left out.
        looks: of the methods.
        published: by method, for those that have a published number.
    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for row, result in enumerate(results):
            look, summary = looks[result.method], result.accuracy
            scores = list(result.scores.values())
            axes.plot(scores, [row] * len(scores), "o", markersize=3.2, alpha=0.45, color=look.color, mew=0)
            axes.plot([summary.low, summary.high], [row, row], color=look.color, linewidth=2.4, solid_capstyle="butt")
            axes.plot(summary.mean, row, marker=look.marker, markersize=6.5, color=look.color)
            if result.method in published:
                mean = published[result.method].mean
                axes.plot(mean, row, marker="D", markersize=8, markerfacecolor="none", color=INK, mew=1.1)
            axes.text(1.02, row, points(summary.mean), transform=axes.get_yaxis_transform(), va="center")
        axes.set_yticks(range(len(results)), [result.method for result in results])
        axes.set_ylim(len(results) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("average accuracy %")
        axes.set_title("%", loc="right", x=1.1, fontsize=FONT - 1)

    return draw(name, alt, 0.75 + 0.29 * len(results), paint)
