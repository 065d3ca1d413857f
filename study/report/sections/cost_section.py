"""Time and memory, and runs that did not finish."""

from collections.abc import Callable

from study.protocol.settings import Scenario
from study.records.run_record import RunRecord
from study.report.analysis import Analysis
from study.report.document import Cell, Column, Section, Table, table_of
from study.report.method_results import PHASES, MethodResult
from study.report.number_formats import BYTES, SECONDS, count, unit_for

HOW = (
    "Medians over seeds; times are wall-clock. Consolidation: measuring importance and everything that plugins do "
    "after the last training step. Peak memory: of the process, or of PyTorch on a GPU. State: what the method keeps "
    "between experiences. Scratch: what its plugin holds only for speed."
)
Measured = Callable[[RunRecord], float | None]


def cost_section(analysis: Analysis) -> Section | None:
    finished = {scenario: analysis.finished(scenario) for scenario in analysis.scenarios}
    tables = [_table(scenario, results) for scenario, results in finished.items() if results]
    if not tables:
        return None
    machines = {record.hardware for record in analysis.selection.records if record.finished}
    shared = f" Times of {len(machines)} kinds of machines (see below) are not comparable." if len(machines) > 1 else ""
    return Section("cost", "Time and memory", (HOW + shared, *tables))


def _table(scenario: Scenario, results: list[MethodResult]) -> Table:
    def seconds(phase: str) -> Measured:
        return lambda record: sum(getattr(record.seconds, phase))

    def run(record: RunRecord) -> float:
        return sum(seconds(phase)(record) for phase in PHASES)

    time = unit_for([result.median(run) for result in results], SECONDS)
    peak = unit_for([result.median(lambda record: record.peak_memory) for result in results], BYTES)
    held = unit_for(
        [result.median(lambda record: max(record.plugin_memory, record.plugin_scratch)) for result in results], BYTES
    )
    columns = (
        ("a run", time, run),
        *((phase, time, seconds(phase)) for phase in PHASES),
        ("peak memory", peak, lambda record: record.peak_memory),
        ("state", held, lambda record: record.plugin_memory),
        ("scratch", held, lambda record: record.plugin_scratch),
    )
    return table_of(
        f"cost-{scenario}",
        f"{scenario.capitalize()}-incremental: time and memory of a run",
        results,
        Column("method", lambda result: result.method),
        *(
            Column(f"{heading}, {unit.name}", lambda result, of=of: result.median(of), unit.text)
            for heading, unit, of in columns
        ),
        Column("examples stored", lambda result: result.median(lambda record: record.memory_examples), "{:.0f}".format),
    )


def unfinished_section(analysis: Analysis) -> Section | None:
    ended = [(result, record) for result in analysis.results for record in result.unfinished]
    if not ended:
        return None
    columns: tuple[Column[tuple[MethodResult, RunRecord]], ...] = (
        Column("scenario", lambda row: row[0].scenario),
        Column("method", lambda row: row[0].method),
        Column("seed", lambda row: row[1].run.seed),
        Column("outcome", lambda row: Cell(row[1].outcome, row[1].outcome, "problem")),
        Column("experiences learned", lambda row: len(row[1].accuracy)),
        Column("last line of the error", lambda row: row[1].last_line),
    )
    text = f"{count(len(ended), 'run')} did not finish; no mean and no test includes them."
    heading = "Runs that diverged or failed"
    return Section("unfinished", heading, (text, table_of("unfinished", heading, ended, *columns)))
