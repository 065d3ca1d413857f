"""Accuracy matrices as heat maps."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import figure as matplotlib_figure
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from study.report.document import Figure
from study.report.figures.style import FONT, draw

_COLUMNS = 3
_LARGEST_WITH_NUMBERS = 6
_TITLE_WIDTH = 152  # points of type size that one letter alone could have, by the width of a heat map


def matrices_figure(scenario: str, matrices: Sequence[tuple[str, NDArray[np.float64]]]) -> Figure:
    """One heat map for each method, given its name and matrix (T, T) in percent: rows learned, columns tested."""
    name, caption = f"matrices-{scenario}", f"Accuracy matrices, {scenario}-incremental, mean over the seeds."
    alt = (
        f"Heat maps of the accuracy on each of {matrices[0][1].shape[1]} experiences after each, for {len(matrices)} "
        "methods."
    )
    rows = math.ceil(len(matrices) / _COLUMNS)

    def paint(figure: matplotlib_figure.Figure) -> None:
        figure.set_layout_engine("compressed")  # for axes of fixed shape
        grid = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(matrices) :]:
            axes.set_axis_off()
        for axes, (method, matrix) in zip(grid.flat, matrices, strict=False):
            image = _paint_matrix(axes, method, matrix)
        figure.supxlabel("accuracy on experience", fontsize=FONT)
        figure.supylabel("after learning experience", fontsize=FONT)
        bar = figure.colorbar(image, ax=grid, location="top", aspect=40, fraction=0.3 / rows, label="accuracy %")
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)

    return Figure(name, caption, alt, draw(name, alt, 1.3 + 1.4 * rows, paint))


def _paint_matrix(axes: Axes, method: str, matrix: NDArray[np.float64]) -> AxesImage:
    bottom, right = (size + 0.5 for size in matrix.shape)
    # Not resampled: one pixel for each entry, which keeps 50 x 50 entries small.
    image = axes.imshow(
        matrix, cmap="cividis", vmin=0, vmax=100, interpolation="none", extent=(0.5, right, bottom, 0.5)
    )
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
    return image
