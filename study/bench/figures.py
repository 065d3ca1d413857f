"""Two figures: how a step grows with the experiences, and what passes take."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from study.bench.record import CLREG, Measurement
from study.report.figures.style import INK, MUTED, PALETTE, Look, draw

LOOKS = {
    CLREG: Look(PALETTE[0], "o", "-"),
    "Avalanche": Look(PALETTE[1], "s", "-"),
    "BackPACK": Look(PALETTE[2], "^", "-"),
    "torch.func": Look(PALETTE[3], "D", "-"),
    "curvlinops": Look(PALETTE[5], "v", "-"),
}
"""The look of each library, the same in every figure."""


def growth_figure(name: str, alt: str, lines: Mapping[str, Sequence[tuple[int, Measurement]]]) -> str:
    """The time of a step over Naive's against the experience, a line for each library, both axes logarithmic."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot(xscale="log", yscale="log", xlabel="experience", ylabel="training step, × Naive's")
        for by, points in lines.items():
            x, y = [experience for experience, _ in points], [each.median for _, each in points]
            errors = _bars([each for _, each in points])
            look = LOOKS[by]
            style = {"color": look.color, "marker": look.marker, "linestyle": look.dashes, "elinewidth": 1}
            axes.errorbar(x, y, errors, label=by, **style)
        axes.axhline(1, color=INK, linewidth=0.8)
        axes.xaxis.set_major_locator(FixedLocator(sorted({x for points in lines.values() for x, _ in points})))
        axes.yaxis.set_major_locator(FixedLocator([0.5, 1, 2, 5, 10, 20, 50, 100]))
        for axis in (axes.xaxis, axes.yaxis):
            _plain_numbers(axis)
        figure.legend(loc="outside upper left", ncols=3)

    return draw(name, alt, 2.8, paint)


def pass_figure(name: str, alt: str, models: Mapping[str, Sequence[Measurement]]) -> str:
    """Passes in training epochs on a logarithmic axis: a panel for each model, a row for each importance."""
    rows = {model: list(dict.fromkeys(each.method for each in found)) for model, found in models.items()}
    by_whom = [by for by in LOOKS if any(each.by == by for found in models.values() for each in found)]

    def paint(figure: Figure) -> None:
        heights = [len(each) + 1 for each in rows.values()]
        panels = figure.subplots(len(models), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (model, found) in zip(panels, models.items(), strict=True):
            _paint_panel(axes, model, rows[model], found)
        _plain_numbers(panels[-1].xaxis)
        panels[-1].set_xlabel("training epochs over the same data")
        entries = [
            Line2D([], [], color=LOOKS[by].color, marker=LOOKS[by].marker, linestyle="none", label=by) for by in by_whom
        ]
        figure.legend(handles=entries, loc="outside upper left", ncols=3, handletextpad=0, columnspacing=0.7)

    return draw(name, alt, 1.1 + sum(0.22 * len(each) + 0.3 for each in rows.values()), paint)


def _paint_panel(axes: Axes, model: str, rows: Sequence[str], found: Sequence[Measurement]) -> None:
    axes.set_xscale("log")
    for each in found:
        look, row = LOOKS[each.by], rows.index(each.method)
        marker = {"color": look.color, "marker": look.marker, "linestyle": "none", "elinewidth": 1}
        axes.errorbar(each.median, row, xerr=_bars([each]), **marker)
    axes.axvline(1, color=MUTED, linewidth=0.8)
    axes.set_title(model)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def _bars(found: Sequence[Measurement]) -> list[list[float]]:
    """Distances from the medians to the quartiles."""
    return [[abs(each.quartiles[side] - each.median) for each in found] for side in (0, 1)]


def _plain_numbers(axis: Axis) -> None:
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
