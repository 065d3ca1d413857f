"""Validation accuracy over λ."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from matplotlib import figure as matplotlib_figure

from study.campaign.strength_search import Choice
from study.report.document import Figure
from study.report.figures.style import Look, band_opacity, draw
from study.report.number_formats import strength


def lambda_figure(scenario: str, choices: Sequence[Choice], looks: Mapping[str, Look]) -> Figure:
    """One line for each method with a band from the lowest seed to the highest, and a ring at the chosen λ.

    Thin lines, without a band, are for other values of further options.
    """
    name, what = f"lambda-{scenario}", f"Validation accuracy over λ, {scenario}-incremental"
    bands = any(len(of_seeds) > 1 for choice in choices for of_seeds in choice.by_seed.values())
    alt = f"{what}. Best λ: {', '.join(f'{choice.method} {strength(choice.best[0])}' for choice in choices)}."

    def paint(figure: matplotlib_figure.Figure) -> None:
        axes = figure.add_subplot()
        positive = [values[0] for choice in choices for values in choice.accuracy if values[0] > 0]
        if len(positive) < sum(len(choice.accuracy) for choice in choices):  # λ = 0 has no place on a log axis
            axes.set_xscale("symlog", linthresh=min(positive, default=1.0), linscale=0.5)
        else:
            axes.set_xscale("log")
        for choice in choices:
            look = looks[choice.method]
            for others, line in _lines(choice).items():
                chosen = others == choice.best[1:]
                strengths, accuracies = zip(*line, strict=True)
                if chosen:
                    low, high = map(min, accuracies), map(max, accuracies)
                    axes.fill_between(
                        strengths, [*low], [*high], color=look.color, alpha=band_opacity(len(choices)), linewidth=0
                    )
                axes.plot(
                    strengths,
                    [*map(fmean, accuracies)],
                    color=look.color,
                    linestyle=look.dashes,
                    marker=look.marker,
                    linewidth=1.7 if chosen else 0.8,
                    markersize=4.5 if chosen else 3,
                    label=choice.method if chosen else None,
                )
            best = 100 * choice.accuracy[choice.best]
            axes.plot(choice.best[0], best, "o", markersize=11, markerfacecolor="none", color=look.color, mew=1.5)
        axes.set_xlabel("λ (log scale)")
        axes.set_ylabel("validation accuracy %")
        figure.legend(loc="outside lower center", ncols=3)

    svg = draw(name, alt, 2.9 + 0.2 * (len(choices) // 3), paint)
    spread = ", bands reach from the lowest seed to the highest" if bands else ""
    return Figure(name, f"{what}; rings mark the chosen λ{spread}.", alt, svg)


def _lines(choice: Choice) -> dict[tuple[object, ...], list[tuple[float, list[float]]]]:
    """Points (λ, the seeds' accuracies in percent), ascending in λ, for each combination of the further options."""
    lines: dict[tuple[object, ...], list[tuple[float, list[float]]]] = {}
    for values, of_seeds in choice.by_seed.items():
        lines.setdefault(values[1:], []).append((values[0], [100 * accuracy for accuracy in of_seeds]))
    return {others: sorted(line) for others, line in lines.items()}
