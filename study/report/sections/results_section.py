"""Results of each method in each scenario."""

from study.protocol.settings import Method, Scenario, takes_strength
from study.report.analysis import Analysis
from study.report.document import Cell, Column, Figure, Gallery, Section, Table, table_of
from study.report.figures.accuracy_figure import accuracy_figure
from study.report.figures.style import looks
from study.report.method_results import MethodResult
from study.report.number_formats import NOTHING, enumeration, option, seeds_of, strength


def results_section(analysis: Analysis, figures: tuple[Figure, ...]) -> Section:
    """What each method reached, with ``figures`` that the first screen does not show."""
    tables = (_table(analysis, scenario) for scenario in analysis.scenarios)
    gallery = (Gallery(figures),) if figures else ()
    return Section("results", "Results", (_how(analysis), *gallery, *tables))


def _how(analysis: Analysis) -> str:
    chosen = ""
    if any(takes_strength(method) for method in analysis.protocol.methods.values()):
        chosen = f" Source of λ: {analysis.protocol.strength_source.strip().rstrip('.')}."
    return (
        "Means over seeds with 95% intervals. Average accuracy: over all experiences at the end. Forgetting: best "
        "earlier accuracy minus final accuracy. Backward transfer: final accuracy minus accuracy right after learning. "
        f"Learning accuracy: right after learning.{chosen}"
    )


def accuracy_figures(analysis: Analysis) -> tuple[Figure, ...]:
    figures = []
    for scenario in analysis.scenarios:
        rows = [row for row in analysis.published if row.scenario == scenario and row.comparison is not None]
        published = {row.method: row.number.mean for row in reversed(rows)}  # of several numbers the first source's
        if finished := analysis.finished(scenario):
            figures.append(accuracy_figure(scenario, finished, looks(analysis.protocol.methods), published))
    return tuple(figures)


def _table(analysis: Analysis, scenario: Scenario) -> Table:
    def strength_cell(result: MethodResult) -> Cell:
        searched = _searched_options(analysis.protocol.methods[result.method], result.settings)
        return Cell(strength(result.strength) + searched, result.strength)

    return table_of(
        f"results-{scenario}",
        f"{scenario.capitalize()}-incremental: what each method reached",
        analysis.of(scenario),
        Column("method", lambda result: result.method),
        Column("average accuracy %", lambda result: result.accuracy),
        Column("forgetting %", lambda result: result.forgetting),
        Column("backward transfer %", lambda result: result.backward_transfer),
        Column("learning accuracy %", lambda result: result.learning_accuracy),
        Column("seeds", lambda result: _seeds(result, analysis.protocol.seeds)),
        Column("λ", strength_cell),
        notes=_notes(analysis, scenario),
    )


def _seeds(result: MethodResult, asked: int) -> Cell:
    """Seeds of the means, seeds asked for if more, and runs that did not finish."""
    text = seeds_of(len(result.finished), asked)
    for outcome in ("diverged", "failed"):
        ended = sum(record.outcome == outcome for record in result.unfinished)
        text += f", {ended} {outcome}" if ended else ""
    return Cell(text, len(result.finished), "problem" if result.unfinished else "")


def _searched_options(protocols: Method, chosen: Method) -> str:
    """Options that the search chose and that differ from the protocol's."""
    return "".join(f", {key} = {option(value)}" for key, value in chosen if value != getattr(protocols, key, None))


def _notes(analysis: Analysis, scenario: Scenario) -> list[str]:
    results = analysis.of(scenario)
    notes = []
    if any(result.finished and not result.is_sequential for result in results):
        notes.append(f"{NOTHING}: training on all experiences at once has no forgetting and no transfer.")
    if references := [f"`{result.method}`" for result in results if result.is_reference]:
        notes.append(f"Upper references, which see all data again: {enumeration(references)}.")
    there = {result.method for result in results}
    if not_run := [f"`{method}`" for method in analysis.protocol.methods if method not in there]:
        notes.append(f"Not run: {enumeration(not_run)}.")
    return notes
