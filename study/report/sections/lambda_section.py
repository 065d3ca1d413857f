"""The search for λ and the sensitivity to it."""

from study.campaign.strength_search import Choice
from study.protocol.settings import Scenario
from study.report.analysis import Analysis
from study.report.document import Cell, Column, Figure, Gallery, Section, Table, table_of
from study.report.figures.lambda_figure import lambda_figure
from study.report.figures.style import looks
from study.report.number_formats import combination, count, enumeration, points, strength

FEWEST_SEEDS = 5
"""Seeds of a search from which on neighbouring values of λ may be told apart."""


def lambda_section(analysis: Analysis, figures: tuple[Figure, ...]) -> Section | None:
    """What the search chose, with ``figures`` that the first screen does not show; None without records of it."""
    tables = [_table(analysis, scenario, choices) for scenario, choices in _choices(analysis).items()]
    if not tables:
        return None
    gallery = (Gallery(figures),) if figures else ()
    return Section("lambda", "Sensitivity to λ", (_how(analysis), *gallery, *tables))


def _choices(analysis: Analysis) -> dict[Scenario, list[Choice]]:
    found: dict[Scenario, list[Choice]] = {}
    for choice in analysis.selection.choices:
        found.setdefault(choice.scenario, []).append(choice)
    return found


def _how(analysis: Analysis) -> str:
    protocol, tuning = analysis.protocol, analysis.protocol.tuning
    text = (
        f"Source of λ: {protocol.strength_source.strip().rstrip('.')}. The search trains with every value of the "
        f"grid on {count(len(tuning.seeds), 'seed')} that no result here uses ({enumeration(map(str, tuning.seeds))}), "
        f"and evaluates on {100 * tuning.validation_fraction:g}% of each class's training data, held out for it. "
        "It uses no test data. The λ with the highest mean accuracy is chosen; on ties, the smallest. Intervals and "
        "tests take this λ as given, and do not include the uncertainty of the search."
    )
    if len(tuning.seeds) < FEWEST_SEEDS:
        text += f" Fewer than {FEWEST_SEEDS} seeds are too few to choose between neighbouring values."
    unfinished = sum(not record.finished for record in analysis.selection.tuning)
    if unfinished:
        text += f" {count(unfinished, 'run')} of the search diverged or failed; values with such a run are not chosen."
    return text


def lambda_figures(analysis: Analysis) -> tuple[Figure, ...]:
    of_methods = looks(analysis.protocol.methods)
    return tuple(lambda_figure(scenario, choices, of_methods) for scenario, choices in _choices(analysis).items())


def _table(analysis: Analysis, scenario: Scenario, choices: list[Choice]) -> Table:
    def of_the_protocol(choice: Choice) -> Cell:
        value = analysis.protocol.strength_of(choice.method, scenario)
        return Cell("as chosen", choice.best[0]) if value == "tuned" else Cell(strength(value), value)

    edge = any(choice.at_edge for choice in choices)
    return table_of(
        f"lambda-{scenario}",
        f"{scenario.capitalize()}-incremental: the search for λ",
        choices,
        Column("method", lambda choice: choice.method),
        Column("chosen λ", lambda choice: Cell(combination(choice.options, choice.best), choice.best[0])),
        Column("validation accuracy %", lambda choice: 100 * choice.accuracy[choice.best], points),
        Column("at the grid's edge", lambda choice: Cell("yes", "yes", "problem") if choice.at_edge else "no"),
        Column("λ of the protocol", of_the_protocol),
        notes=["At the edge a wider grid may find a better λ."] if edge else [],
    )
