"""Accuracy against the memory that a method keeps."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from study.report.figures.style import Look, draw, label_ends, margin_for, within_percent
from study.report.method_results import MethodResult
from study.report.number_formats import BYTES, unit_for


def memory_figure(name: str, alt: str, results: Sequence[MethodResult], looks: Mapping[str, Look]) -> str:
    """One point with its interval for each method with state; a level line for those without."""
    holding = [result for result in results if result.plugin_memory]
    without = [result for result in results if not result.plugin_memory]
    height = max(2.8, 0.9 + 0.19 * len(results))

    def paint(figure: Figure) -> None:
        right = 1 - margin_for([result.method for result in results]) - 0.05
        axes = figure.add_axes((0.15, 0.47 / height, right - 0.15, 1 - (0.47 + 0.12) / height))
        axes.set_xscale("log", base=2)
        smallest, largest = (f(result.plugin_memory for result in holding) for f in (min, max))
        axes.set_xlim(smallest / 2, largest * 2)
        for result in without:
            axes.axhline(result.accuracy.mean, color=looks[result.method].color, linestyle=(0, (4, 2)), linewidth=1.1)
        for result in holding:
            look, summary = looks[result.method], result.accuracy
            axes.plot([result.plugin_memory] * 2, [summary.low, summary.high], color=look.color, linewidth=1.4)
            axes.plot(result.plugin_memory, summary.mean, marker=look.marker, markersize=6.5, color=look.color)
        axes.set_ylim(*within_percent(*axes.get_ylim()))
        axes.set_xticks(_powers_of_two(smallest / 2, largest * 2))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short_bytes(value)))
        axes.set_xlabel("bytes that the method keeps (log scale)")
        axes.set_ylabel("average accuracy %")
        labels = [(r.method, r.accuracy.mean, looks[r.method], r.plugin_memory) for r in holding]
        labels += [(r.method, r.accuracy.mean, looks[r.method], largest * 2) for r in without]
        label_ends(axes, labels, 0.17 / (height - 0.59))

    return draw(name, alt, height, paint, layout=None)


def _powers_of_two(low: float, high: float) -> list[float]:
    """At most three, evenly spaced on a log axis."""
    exponents = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    step = math.ceil(len(exponents) / 3)
    return [2.0**exponent for exponent in exponents[(len(exponents) - 1) % step // 2 :: step]]


def _short_bytes(value: float) -> str:
    unit = unit_for([value], BYTES)
    return f"{value / unit.size:g} {unit.name}"
