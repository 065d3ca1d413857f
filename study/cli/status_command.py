"""``clreg-study status``."""

from collections import Counter

import typer
from rich.table import Column, Table
from rich.text import Text

from study.campaign.progress import runs_under_way, under_way_table
from study.cli.folders import (
    command_line,
    command_to_repeat,
    protocol_as_run,
    records_folder,
    stem,
)
from study.cli.options import Name, Overrides, Records
from study.cli.terminal import print_table
from study.protocol.schema import Protocol
from study.records.code_versions import of_one_version
from study.records.deduplicate import deduplicate
from study.records.request import Request
from study.records.run_record import RunRecord
from study.records.store import RunStore
from study.run.specification import Run


def status(name: Name, records: Records = None, overrides: Overrides = None) -> None:
    """Print the progress of a study, from another terminal or after an interrupt.

    It counts what the last `run` was asked for. JSON files that are not records, or are damaged, are named and not
    counted.
    """
    folder = records or records_folder(name)
    protocol, request = protocol_as_run(name, overrides, folder)
    store = RunStore(folder)
    (running, damaged), there = runs_under_way(store.under_way), store.contents()
    if not running and not damaged and not there.damaged:
        there.whole()  # nothing at all is an error that says what to do
    request = request or Request.whole(stem(name), protocol)
    given = overrides or request.overrides
    again = command_to_repeat(name, protocol, records=records, overrides=given)
    if request.evaluated_on == "validation":
        again = command_line("tune", name, tuning=records, overrides=given)
    found, others = of_one_version(there.records, protocol.own_code, again)
    print_table(_status_table(protocol, request, found))
    for sentence in [*there.left_out, *others]:
        typer.echo(sentence)
    if damaged:
        typer.echo(f"damaged progress files, ignored (delete them): {', '.join(map(str, damaged))}")
    if running:
        typer.echo("begun and not ended:")
        print_table(under_way_table(running))


def _status_table(protocol: Protocol, request: Request, records: list[RunRecord]) -> Table:
    """How many runs of each method in each scenario were asked for, and how many finished, diverged or failed."""
    outcomes = ("finished", "diverged", "failed")
    own = [record for record in records if _belongs(record.run, protocol, request)]
    latest = deduplicate(own, lambda record: _asked_for(record.run)).values()
    counts = Counter((record.run.scenario, record.run.label, record.outcome) for record in latest)
    numbers = [Column(heading, justify="right") for heading in ("runs", *outcomes)]
    table = Table("scenario", "method", *numbers, title_justify="left", caption_justify="left")
    shown = {
        (scenario, method): request.runs[scenario][method]
        for scenario in protocol.scenarios
        for method in protocol.methods
        if method in request.runs.get(scenario, {})
    }
    table.title = Text(f"{protocol.title}: {len(latest)} of {sum(shown.values())} runs have ended", style="table.title")
    for (scenario, method), asked in shown.items():
        found = [counts[scenario, method, outcome] for outcome in outcomes]
        table.add_row(*map(Text, (scenario, method, str(asked), *(str(n) if n else "–" for n in found))))
    if len(own) < len(records):
        table.caption = f"{len(records) - len(own)} records of other settings are not counted"
    return table


def _asked_for(run: Run) -> tuple[object, ...]:
    """What tells runs apart that were asked for: in a search also λ and options, which else the protocol decides."""
    searched = run.content if run.evaluated_on == "validation" else None
    return run.scenario, run.label, run.seed, searched


def _belongs(run: Run, protocol: Protocol, request: Request) -> bool:
    """Whether a run was asked for, whatever λ and options a search chose."""
    asked = request.runs.get(run.scenario, {}).keys() & protocol.methods.keys()
    if run.label not in asked or run.evaluated_on != request.evaluated_on:
        return False
    if run.evaluated_on == "test" and run.seed >= request.runs[run.scenario][run.label]:
        return False
    strength = protocol.strength_of(run.label, run.scenario)
    chosen = strength == "tuned" or run.evaluated_on == "validation"
    if not chosen and (run.method, run.strength) != (protocol.methods[run.label], strength):
        return False
    return (run.benchmark, run.model, run.training) == (protocol.benchmark, protocol.model, protocol.training)
