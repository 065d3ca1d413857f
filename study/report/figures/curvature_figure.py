"""The old task's loss along paths of training, and what quadratics say of it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study.report.figures.style import INK, PALETTE, draw
from study.report.number_formats import strength
from study.run.curvature import TrainingPath

DECADES = 10
"""Below the largest value of the loss nothing is shown that is smaller by more of these."""


class Line(NamedTuple):
    """The label and look of a line."""

    label: str
    color: str
    width: float = 0.9
    dashes: str | tuple[int, tuple[float, ...]] = "-"


LINES = {
    "actual": Line("the loss", INK, 2.4),
    "gauss_newton": Line("Gauss–Newton", PALETTE[1], 1.7),
    "hessian": Line("Hessian", PALETTE[1], 1.7, (0, (2, 1.4))),
    "kfac": Line("Kronecker factors", "#6a51a3", 1.7),  # as the method kfac in every figure
    "kfac-reduce": Line("Kronecker factors, reduce", "#6a51a3", 1.7, (0, (2, 1.4))),
    "exact": Line("diagonal, exact", PALETTE[0], 1.7),
    "sample": Line("diagonal, sample", PALETTE[4]),
    "predicted": Line("diagonal, predicted", PALETTE[2], dashes=(0, (4, 1.4))),
    "empirical": Line("diagonal, empirical", PALETTE[3]),
    "batched": Line("diagonal, batched", PALETTE[5]),
}
"""By attribute of a path or name of a curvature."""


def curvature_figure(name: str, alt: str, paths: Sequence[TrainingPath]) -> str:
    """A panel for each path, both axes logarithmic; what is not positive is not shown."""

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(paths), sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, path in zip(panels, paths, strict=True):
            _paint_panel(axes, path)
        panels[-1].set_xlabel("iteration of the second experience")
        figure.supylabel("increase of the first one's loss, nats", fontsize="medium")
        largest = max(max(path.actual + path.gauss_newton) for path in paths)
        smallest = min((value for path in paths for value in _values(path) if value > 0), default=largest)
        panels[0].set_ylim(max(smallest, largest * 10.0**-DECADES) / 2, largest * 3)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, handlelength=2.4, columnspacing=1.4)

    return draw(name, alt, 1.7 + 1.9 * len(paths), paint)


def _values(path: TrainingPath) -> list[float]:
    return [value for line in (path.actual, path.gauss_newton, *path.predicted.values()) for value in line]


def _paint_panel(axes: Axes, path: TrainingPath) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log", nonpositive="mask")
    for key, line in LINES.items():
        values = path.predicted.get(key, getattr(path, key, None))
        if values is not None:
            shown = np.where(np.array(values) > 0, values, np.nan)
            axes.plot(
                path.iterations, shown, color=line.color, linewidth=line.width, linestyle=line.dashes, label=line.label
            )
    run = path.run
    axes.set_title(run.label if run.strength is None else f"{run.label}, λ = {strength(run.strength)}")
