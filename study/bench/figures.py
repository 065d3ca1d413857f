"""Two pictures: how a step grows with the experiences, and what passes take."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from study.bench.record import Measurement
from study.report.figures.style import INK, MUTED, PALETTE, Look, draw, label_ends, margin_for

LOOKS = {
    "ours": Look(PALETTE[0], "o", "-"),
    "ours, direct": Look(PALETTE[4], "v", "-"),
    "Avalanche": Look(PALETTE[1], "s", "-"),
    "plain autograd": Look(MUTED, "^", "-"),
}

COLORS = {
    "ours": PALETTE[0],
    "BackPACK": PALETTE[1],
    "torch.func": PALETTE[2],
    "Avalanche": PALETTE[3],
    "curvlinops": PALETTE[5],
}
"""By who computes; the rest is grey."""


def growth_figure(name: str, alt: str, lines: Mapping[str, Sequence[tuple[int, Measurement]]]) -> str:
    """A line for each kind of plugin: the time of a step over Naive's, against the experience, both axes by factors.

    Args:
        name, alt: as :func:`draw` has them.
        lines: by kind, the experience and the measurement at it.
    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set_xscale("log")
        axes.set_yscale("log")
        ends = []
        for kind, points in lines.items():
            look, x = LOOKS[kind], [experience for experience, _ in points]
            y = [measurement.median for _, measurement in points]
            errors = [
                [measurement.median - measurement.quartiles[0] for _, measurement in points],
                [measurement.quartiles[1] - measurement.median for _, measurement in points],
            ]
            axes.errorbar(x, y, errors, color=look.color, marker=look.marker, linestyle=look.dashes, elinewidth=1)
            ends.append((kind, y[-1], look, x[-1]))
        axes.axhline(1, color=INK, linewidth=0.8)
        axes.xaxis.set_major_locator(FixedLocator(sorted({x for points in lines.values() for x, _ in points})))
        axes.xaxis.set_minor_locator(NullLocator())
        low, high = axes.get_ylim()
        ticks = [tick for tick in (0.5, 1, 2, 5, 10, 20, 50) if low <= tick <= high]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_minor_locator(NullLocator())
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("experience")
        axes.set_ylabel("step over Naive's")
        figure.subplots_adjust(left=0.13, right=1 - margin_for(list(lines)), bottom=0.17, top=0.95)
        label_ends(axes, ends, 0.11)

    return draw(name, alt, 2.6, paint, layout=None)


def pass_figure(name: str, alt: str, passes: Sequence[Measurement]) -> str:
    """A bar for each pass, the fastest first, on an axis by factors, with the quartiles.

    Args:
        name, alt: as :func:`draw` has them.
        passes: times in training epochs.
    """
    ordered = sorted(passes, key=lambda measurement: measurement.median)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set_xscale("log")
        left = 0.5 * min(measurement.quartiles[0] for measurement in ordered)
        for row, measurement in enumerate(ordered):
            color = COLORS.get(measurement.mode.rpartition(", ")[2], MUTED)
            axes.barh(row, measurement.median - left, 0.62, left, color=color, linewidth=0)
            axes.plot(measurement.quartiles, [row, row], color=INK, linewidth=1)
            axes.annotate(
                f"{measurement.median:.3g}",
                (measurement.quartiles[1], row),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
            )
        axes.axvline(1, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(ordered)), [measurement.mode for measurement in ordered])
        axes.set_ylim(len(ordered) - 0.4, -0.6)
        axes.set_xlim(left, 4 * max(measurement.quartiles[1] for measurement in ordered))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("training epochs")

    return draw(name, alt, 0.7 + 0.22 * len(ordered), paint)
