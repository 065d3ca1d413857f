"""Accuracy matrices as heat maps."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from study.report.figures.style import FONT, draw

_COLUMNS = 3
_LARGEST_WITH_NUMBERS = 6
_TITLE_WIDTH = 152  # points of type size that one letter alone could have, by the width of a heat map


def matrices_figure(name: str, alt: str, matrices: Sequence[tuple[str, NDArray[np.float64]]]) -> str:
    """One heat map for each method, given its name and matrix (T, T) in percent: rows learned, columns tested."""
    rows = math.ceil(len(matrices) / _COLUMNS)
    height = 1.23 + 1.45 * rows

    def paint(figure: Figure) -> None:
        margins = {"left": 0.11, "right": 0.985, "bottom": 0.45 / height, "top": 1 - 0.78 / height}
        grid = figure.subplots(
            rows,
            _COLUMNS,
            squeeze=False,
            sharex=True,
            sharey=True,
            gridspec_kw=margins | {"wspace": 0.08, "hspace": 0.28},
        )
        for axes in grid.flat[len(matrices) :]:
            axes.set_axis_off()
        for axes, (method, matrix) in zip(grid.flat, matrices, strict=False):
            mesh = _paint_matrix(axes, method, matrix)
        for axes in grid.flat[max(0, len(matrices) - _COLUMNS) : len(matrices)]:
            axes.tick_params(labelbottom=True)
        figure.supxlabel("accuracy on experience", fontsize=FONT, y=0.05 / height)
        figure.supylabel("after learning experience", fontsize=FONT, x=0.01)
        place = figure.add_axes((0.11, 1 - 0.45 / height, 0.875, 0.09 / height))
        bar = figure.colorbar(mesh, cax=place, orientation="horizontal", ticklocation="top")
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=FONT - 2)
        bar.set_label("accuracy %", fontsize=FONT - 1, labelpad=2)

    return draw(name, alt, height, paint, layout=None)


def _paint_matrix(axes: Axes, method: str, matrix: NDArray[np.float64]) -> object:
    edges = [np.arange(0.5, size + 1) for size in matrix.shape]
    colors = matplotlib.colormaps["cividis"]
    mesh = axes.pcolormesh(edges[1], edges[0], matrix, cmap=colors, vmin=0, vmax=100, edgecolor="face", linewidth=0.2)
    axes.set(aspect="equal", ylim=(matrix.shape[0] + 0.5, 0.5))
    axes.set_title(method, fontsize=min(FONT - 0.5, _TITLE_WIDTH / len(method)))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=FONT - 2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    if matrix.shape[1] <= _LARGEST_WITH_NUMBERS:
        for (k, j), value in np.ndenumerate(matrix):
            color = "#ffffff" if value < 55 else "#010101"
            axes.text(j + 1, k + 1, f"{value:.0f}", ha="center", va="center", color=color, fontsize=FONT - 2.5)
    return mesh
