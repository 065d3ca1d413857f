"""Time and memory, and runs that did not finish."""

from collections.abc import Callable

from study.protocol.settings import Scenario
from study.records.run_record import RunRecord
from study.report.analysis import Analysis
from study.report.document import Cell, Column, Paragraph, Section, Table, number, table_of, word
from study.report.method_results import PHASES, MethodResult
from study.report.number_formats import BYTES, SECONDS, Unit, count, unit_for

Quantity = Callable[[MethodResult], float | None]


def cost_section(analysis: Analysis) -> Section | None:
    tables = [
        _table(scenario, finished) for scenario in analysis.scenarios if (finished := analysis.finished(scenario))
    ]
    if not tables:
        return None
    text = (
        "Wall-clock time of a run, mean over seeds. Consolidation: measuring importance and everything that plugins do "
        "after the last training step. Peak memory: of the process, or of PyTorch on a GPU. State: what the method "
        "keeps between experiences. Scratch: what its plugin holds only for speed."
    )
    machines = {record.hardware for record in analysis.selection.records if record.finished}
    if len(machines) > 1:
        text += f" The runs ran on {len(machines)} kinds of machines (see below), so times are not comparable."
    return Section("cost", "Time and memory", (Paragraph(text), *tables))


def _table(scenario: Scenario, finished: list[MethodResult]) -> Table:
    def total(result: MethodResult) -> float:
        return sum(map(result.mean_seconds, PHASES))

    def peak(result: MethodResult) -> float | None:
        return result.mean(lambda record: record.peak_memory)

    def scratch(result: MethodResult) -> float | None:
        return result.mean(lambda record: record.plugin_scratch)

    def share(result: MethodResult) -> Cell:
        training = result.mean_seconds("training")
        return number(result.mean_seconds("consolidation") / training if training else None, "{:.3f}".format)

    def state(result: MethodResult) -> float | None:
        return result.plugin_memory

    def quantity(heading: str, unit: Unit, value: Quantity) -> Column[MethodResult]:
        return Column(f"{heading}, {unit.name}", lambda result: number(value(result), unit.text))

    seconds = unit_for(map(total, finished), SECONDS)
    plugin = unit_for([held for result in finished for held in (state(result), scratch(result))], BYTES)
    return table_of(
        f"cost-{scenario}",
        f"{scenario.capitalize()}-incremental: time and memory of a run",
        finished,
        Column("method", lambda result: word(result.method), "name"),
        quantity("a run", seconds, total),
        *(quantity(phase, seconds, lambda result, phase=phase: result.mean_seconds(phase)) for phase in PHASES),
        Column("consolidation / training", share),
        quantity("peak memory", unit_for(map(peak, finished), BYTES), peak),
        quantity("state", plugin, state),
        quantity("scratch", plugin, scratch),
        Column("examples stored", lambda result: number(_examples(result))),
    )


def _examples(result: MethodResult) -> int | None:
    return max((r.memory_examples for r in result.finished if r.memory_examples is not None), default=None)


def unfinished_section(analysis: Analysis) -> Section | None:
    ended = [(result, record) for result in analysis.results for record in result.unfinished]
    if not ended:
        return None
    columns: tuple[Column[tuple[MethodResult, RunRecord]], ...] = (
        Column("scenario", lambda row: word(row[0].scenario), "name"),
        Column("method", lambda row: word(row[0].method), "name"),
        Column("seed", lambda row: number(row[1].run.seed)),
        Column("outcome", lambda row: word(row[1].outcome, "problem"), "name"),
        Column("experiences learned", lambda row: number(len(row[1].accuracy))),
        Column("last line of the error", lambda row: word(row[1].last_line), "prose"),
    )
    text = f"{count(len(ended), 'run')} did not finish, and {'is' if len(ended) == 1 else 'are'} in no mean or test."
    heading = "Runs that diverged or failed"
    return Section("unfinished", heading, (Paragraph(text), table_of("unfinished", heading, ended, *columns)))
