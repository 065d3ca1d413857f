"""Time and memory."""

from study.protocol.settings import Scenario
from study.report.analysis import Analysis
from study.report.document import Cell, Column, Figure, Gallery, Paragraph, Section, Table, section_by_scenario
from study.report.figures.cost_figure import PHASES, time_figure
from study.report.figures.style import looks
from study.report.method_results import MethodResult
from study.report.number_formats import BYTES, SECONDS, quantity, unit_for
from study.report.sections.cells import quantity_cell


def cost_section(analysis: Analysis) -> Section | None:
    subsections = []
    for scenario in analysis.scenarios:
        finished = analysis.finished(scenario)
        if finished:
            blocks = (Gallery((_figure(analysis, scenario, finished),)), _table(scenario, finished))
            subsections.append(Section(f"cost-{scenario}", f"{scenario.capitalize()}-incremental", blocks))
    if not subsections:
        return None
    return section_by_scenario("cost", "Time and memory", [Paragraph(_how(analysis))], subsections)


def _how(analysis: Analysis) -> str:
    text = (
        "Wall-clock time of a run, mean over seeds. Consolidation: measuring importance and everything that plugins do "
        "after the last training step. Peak memory: of the process, or of PyTorch on a GPU. State: what the method "
        "keeps between experiences. Scratch: what its plugin holds only for speed."
    )
    machines = {record.hardware for record in analysis.selection.records if record.finished}
    if len(machines) > 1:
        text += f" The runs ran on {len(machines)} kinds of machines (see below), so times are not comparable."
    return text


def _figure(analysis: Analysis, scenario: Scenario, finished: list[MethodResult]) -> Figure:
    times = ", ".join(f"{result.method} {quantity(_total(result), SECONDS)}" for result in finished)
    alt = f"Time of a run, {scenario}-incremental: {times}."
    name = f"time-{scenario}"
    svg = time_figure(name, alt, finished, looks(analysis.protocol.methods))
    return Figure(name, f"Mean time of a run, {scenario}-incremental.", alt, svg)


def _table(scenario: Scenario, finished: list[MethodResult]) -> Table:
    seconds = unit_for([_total(result) for result in finished], SECONDS)
    peak = unit_for([result.peak_memory for result in finished], BYTES)
    plugin = unit_for([held for r in finished for held in (r.plugin_memory, r.plugin_scratch)], BYTES)
    columns = (
        Column("method", "name"),
        Column(f"a run, {seconds.name}"),
        *(Column(f"{phase}, {seconds.name}") for phase in PHASES),
        Column("consolidation / training"),
        Column(f"peak memory, {peak.name}"),
        Column(f"state, {plugin.name}"),
        Column(f"scratch, {plugin.name}"),
        Column("examples stored"),
    )
    rows = []
    for result in finished:
        phases = {phase: result.mean_seconds(phase) or 0.0 for phase in PHASES}
        share = phases["consolidation"] / phases["training"] if phases["training"] else None
        examples = max((r.memory_examples for r in result.finished if r.memory_examples is not None), default=None)
        rows.append(
            (
                Cell(result.method, result.method),
                *(quantity_cell(value, seconds) for value in (_total(result), *phases.values())),
                Cell("–" if share is None else f"{share:.3f}", share),
                quantity_cell(result.peak_memory, peak),
                quantity_cell(result.plugin_memory, plugin),
                quantity_cell(result.plugin_scratch, plugin),
                Cell("–" if examples is None else str(examples), examples),
            )
        )
    caption = f"{scenario.capitalize()}-incremental: time and memory of a run"
    return Table(f"cost-{scenario}", caption, columns, tuple(rows))


def _total(result: MethodResult) -> float:
    return sum(result.mean_seconds(phase) or 0.0 for phase in PHASES)
