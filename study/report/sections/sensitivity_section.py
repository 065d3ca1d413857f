"""The search for λ and the sensitivity to it."""

from study.campaign.strength_search import Choice
from study.protocol.settings import Scenario
from study.report.analysis import Analysis
from study.report.document import Cell, Column, Figure, Gallery, Paragraph, Section, Table, section_by_scenario
from study.report.figures.sensitivity_figure import sensitivity_figure
from study.report.figures.style import looks
from study.report.number_formats import combination, count, enumeration, points, strength


def sensitivity_section(analysis: Analysis) -> Section | None:
    """What the search tried and chose; None without records of it."""
    choices = analysis.selection.choices
    if not choices:
        return None
    figures, subsections = [], []
    for scenario in dict.fromkeys(choice.scenario for choice in choices):
        of_scenario = [choice for choice in choices if choice.scenario == scenario]
        figures.append(_figure(analysis, scenario, of_scenario))
        heading = f"{scenario.capitalize()}-incremental"
        subsections.append(Section(f"lambda-{scenario}", heading, (_table(analysis, scenario, of_scenario),)))
    blocks = [Paragraph(_how(analysis)), Gallery(tuple(figures))]
    return section_by_scenario("lambda", "How much depends on λ", blocks, subsections)


def _how(analysis: Analysis) -> str:
    protocol = analysis.protocol
    tuning = protocol.tuning
    text = (
        f"Source of λ: {protocol.strength_source.strip().rstrip('.')}. The search trains with every value of the "
        f"grid on {count(len(tuning.seeds), 'seed')} that no result here uses ({enumeration(map(str, tuning.seeds))}), "
        f"and evaluates on {100 * tuning.validation_fraction:g}% of each class's training data, which it then does not "
        "train on. No test data takes part. The highest mean accuracy is chosen, of equals the smallest λ."
    )
    unfinished = sum(not record.finished for record in analysis.selection.tuning)
    if unfinished:
        text += f" {count(unfinished, 'run')} of the search diverged or failed; values with such a run are not chosen."
    return text


def _figure(analysis: Analysis, scenario: Scenario, choices: list[Choice]) -> Figure:
    best = ", ".join(f"{choice.method} {strength(choice.best[0])}" for choice in choices)
    alt = f"Validation accuracy over λ, {scenario}-incremental. Best λ: {best}."
    caption = f"Validation accuracy over λ, {scenario}-incremental; rings mark what was chosen."
    name = f"lambda-{scenario}"
    return Figure(name, caption, alt, sensitivity_figure(name, alt, choices, looks(analysis.protocol.methods)))


def _table(analysis: Analysis, scenario: Scenario, choices: list[Choice]) -> Table:
    columns = (
        Column("method", "name"),
        Column("chosen λ"),
        Column("validation accuracy %"),
        Column("at the grid's edge", "name"),
        Column("λ of the protocol"),
        Column("λ: validation accuracy %", "prose"),
    )
    rows = tuple(_row(analysis, scenario, choice) for choice in choices)
    notes = ("At the edge a wider grid may find a better λ.",) if any(choice.at_edge for choice in choices) else ()
    return Table(f"lambda-{scenario}", f"{scenario.capitalize()}-incremental: the search for λ", columns, rows, notes)


def _row(analysis: Analysis, scenario: Scenario, choice: Choice) -> tuple[Cell, ...]:
    tried = "; ".join(
        f"{combination(choice.options, values)}: {points(100 * mean)}" for values, mean in choice.accuracy.items()
    )
    protocols = analysis.protocol.strength_of(choice.method, scenario)
    accuracy = 100 * choice.accuracy[choice.best]
    edge = "yes" if choice.at_edge else "no"
    return (
        Cell(choice.method, choice.method),
        Cell(combination(choice.options, choice.best), choice.best[0]),
        Cell(points(accuracy), accuracy),
        Cell(edge, edge, "problem" if choice.at_edge else ""),
        Cell("as chosen", choice.best[0]) if protocols == "tuned" else Cell(strength(protocols), protocols),
        Cell(tried, tried),
    )
