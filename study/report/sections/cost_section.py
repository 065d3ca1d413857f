"""Time and memory."""

from study.protocol.settings import Scenario
from study.report.analysis import Analysis
from study.report.document import Cell, Column, Figure, Gallery, Paragraph, Section, Table, section_by_scenario
from study.report.figures.cost_figure import PHASES, peak_memory_figure, time_figure
from study.report.figures.style import looks
from study.report.method_results import MethodResult
from study.report.number_formats import BYTES, SECONDS, quantity, unit_for
from study.report.sections.cells import quantity_cell


def cost_section(analysis: Analysis) -> Section | None:
    subsections = []
    for scenario in analysis.scenarios:
        finished = analysis.finished(scenario)
        if finished:
            blocks = (Gallery(_figures(analysis, scenario, finished)), _table(scenario, finished))
            subsections.append(Section(f"cost-{scenario}", f"{scenario.capitalize()}-incremental", blocks))
    if not subsections:
        return None
    return section_by_scenario("cost", "Time and memory", [Paragraph(_how(analysis))], subsections)


def _how(analysis: Analysis) -> str:
    text = (
        "Means of a run over the seeds, in wall-clock time. Consolidation: measuring importance and all else that "
        "plugins do after the last training step. Peak memory: the largest that the process (on a GPU: PyTorch there) "
        "held. State: what the method has to keep at the end from one experience to the next, as importance, "
        "stored examples or a copy of the model. Scratch: what its plugin holds beside, only to be fast."
    )
    machines = {record.hardware for record in analysis.selection.records if record.finished}
    if len(machines) > 1:
        text += (
            f" The runs ran on {len(machines)} kinds of machines (see below): times are not comparable between them."
        )
    return text


def _figures(analysis: Analysis, scenario: Scenario, finished: list[MethodResult]) -> tuple[Figure, ...]:
    colors = looks(analysis.protocol.methods)
    alt = f"Time of a run, {scenario}-incremental: " + ", ".join(
        f"{result.method} {quantity(_total(result), SECONDS)}" for result in finished
    )
    caption = f"Mean time of a run, {scenario}-incremental."
    svg = time_figure(f"time-{scenario}", f"{alt}.", finished, colors)
    figures = [Figure(f"time-{scenario}", caption, f"{alt}.", svg)]
    measured = [result for result in finished if result.peak_memory is not None]
    if measured:
        alt = f"Peak memory of a run, {scenario}-incremental: " + ", ".join(
            f"{result.method} {quantity(result.peak_memory, BYTES)}" for result in measured
        )
        svg = peak_memory_figure(f"peak-{scenario}", f"{alt}.", measured, colors)
        figures.append(Figure(f"peak-{scenario}", f"Peak memory of a run, {scenario}-incremental.", f"{alt}.", svg))
    return tuple(figures)


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
