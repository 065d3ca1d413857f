"""``clreg-study``: run protocols, search for λ, report results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from study.bench.command import bench
from study.campaign.carry_out import Interrupted, carry_out
from study.campaign.local_pool import usable_cpus
from study.campaign.ray_cluster import check_cluster
from study.campaign.strength_search import choose, resolve, tuning_runs
from study.cli.options import (
    DataRoot,
    Device,
    Force,
    Jobs,
    Methods,
    Mode,
    Name,
    OnDevice,
    Out,
    Overrides,
    Ray,
    Reuse,
    Scenarios,
    TuningFolder,
    Wandb,
    check_own_code,
    checked_data,
    code_folder,
    records_folder,
    reusable_records,
    selected,
    stem,
    tuning_folder,
    tuning_records,
)
from study.cli.protocol_commands import new
from study.cli.record_commands import agreement, compare, overview, repeat, report
from study.cli.user_errors import INTERRUPTED, SOME_RUNS_FAILED, errors_without_traceback
from study.errors import ProtocolError
from study.protocol.load import load_protocol, packaged_text, protocol_names
from study.protocol.schema import Protocol
from study.records.run_record import RunRecord
from study.records.store import RunStore
from study.run.run_environment import RunEnvironment
from study.run.specification import Run
from study.run.tracking import Tracking, check_tracking

app = typer.Typer(
    help="Continual-learning protocols over seeds, with the methods of clreg.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    app()


@app.command("list")
def list_protocols() -> None:
    """Name the protocols that come with clreg."""
    with errors_without_traceback():
        for name in protocol_names():
            typer.echo(f"{name}: {load_protocol(name).title}")


@app.command()
def show(
    name: Name,
    overrides: Overrides = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print the file of a protocol that comes with clreg.")] = False,
) -> None:
    """Print what a protocol does."""
    from study.report.terminal_tables import protocol_table

    with errors_without_traceback():
        if toml:
            typer.echo(packaged_text(name), nl=False)
            return
        protocol = load_protocol(name, overrides or ())
        console = Console(highlight=False)
        console.print(protocol.title, style="bold", markup=False)
        if protocol.description:
            console.print(" ".join(protocol.description.split()) + "\n", markup=False)
        for key in ("benchmark", "model", "training"):
            settings = getattr(protocol, key).model_dump(exclude_none=True).items()
            console.print(f"{key}: " + ", ".join(f"{option} = {value}" for option, value in settings), markup=False)
        console.print(f"scenarios: {', '.join(protocol.scenarios)}; seeds: {protocol.seeds}")
        console.print(f"λ: {protocol.strength_source}\n", markup=False)
        console.print(protocol_table(protocol))
        for table in protocol.published:
            numbers = sum(map(len, table.results.values()))
            console.print(f"published: {table.source} ({numbers} numbers)", markup=False)


@app.command()
def run(
    name: Name,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds.")] = None,
    methods: Methods = None,
    scenario: Scenarios = None,
    jobs: Jobs = None,
    device: OnDevice = Device.cpu,
    data_root: DataRoot = None,
    wandb: Wandb = Mode.offline,
    ray: Ray = None,
    out: Out = None,
    tuning: TuningFolder = None,
    reuse: Reuse = None,
    force: Force = False,
    overrides: Overrides = None,
) -> None:
    """Train every method in every scenario over the seeds, and print the results.

    Finished runs are kept: after an interrupt the same command goes on.
    """
    from study.report.terminal_tables import method_results, scenario_table

    with errors_without_traceback():
        protocol = load_protocol(name, overrides or ())
        scenarios = selected("--scenario", scenario, protocol.scenarios)
        chosen = selected("--methods", methods, list(protocol.methods))
        choices = choose(stem(name), protocol, tuning_records(name, tuning))
        runs = []
        for seed in protocol.run_seeds(seeds):
            for kind in scenarios:
                for method in chosen:
                    settings, strength = resolve(name, protocol, kind, method, choices)
                    runs.append(
                        Run.of(
                            stem(name),
                            protocol,
                            kind,
                            method,
                            seed,
                            settings=settings,
                            strength=strength,
                            device=device.value,
                        )
                    )
        store = RunStore(out or records_folder(name))
        records = _carry_out(name, protocol, runs, store, jobs, device, data_root, wandb, ray, force, reuse)
        ordered = sorted(records, key=lambda record: chosen.index(record.run.label))
        console = Console()
        for kind in scenarios:
            console.print(scenario_table(protocol.title, kind, method_results(ordered, kind)))
        _exit_if_any_failed(records)


@app.command()
def tune(
    name: Name,
    methods: Methods = None,
    scenario: Scenarios = None,
    jobs: Jobs = None,
    device: OnDevice = Device.cpu,
    data_root: DataRoot = None,
    wandb: Wandb = Mode.disabled,
    ray: Ray = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the records; by default runs/<protocol>-tuning.")] = None,
    reuse: Reuse = None,
    force: Force = False,
    overrides: Overrides = None,
) -> None:
    """Search for each method's λ, on seeds that no report uses, validated on a part of the training data."""
    from study.report.terminal_tables import choice_table, strength_toml

    with errors_without_traceback():
        protocol = load_protocol(name, overrides or ())
        scenarios = selected("--scenario", scenario, protocol.scenarios)
        chosen = selected("--methods", methods, list(protocol.methods))
        runs = tuning_runs(stem(name), protocol, scenarios, chosen, device.value)
        store = RunStore(out or tuning_folder(name))
        records = _carry_out(name, protocol, runs, store, jobs, device, data_root, wandb, ray, force, reuse)
        choices = choose(stem(name), protocol, records)
        Console().print(choice_table(protocol.title, choices))
        typer.echo(f"[strength]\n{strength_toml(choices)}")
        _exit_if_any_failed(records)


@app.command()
def status(name: Name, out: Out = None, overrides: Overrides = None) -> None:
    """Print the progress of a study, from another terminal or after an interrupt.

    JSON files that are not records, or are damaged, are named and not counted.
    """
    from study.campaign.progress import runs_under_way, status_table, under_way_table

    with errors_without_traceback():
        protocol = load_protocol(name, overrides or ())
        store = RunStore(out or records_folder(name))
        running = runs_under_way(store.under_way)
        there = store.contents()
        if not running and not there.damaged:
            there.whole()  # nothing at all is an error that says what to do
        console = Console(highlight=False)
        console.print(status_table(protocol, there.records))
        for sentence in there.left_out:
            typer.echo(sentence)
        if running:
            console.print("begun and not ended:")
            console.print(under_way_table(running))


for command in (new, report, overview, compare, agreement, repeat, bench):
    app.command()(command)


# ------------------------------------------------------------------------------- what commands share


def _carry_out(
    name: str,
    protocol: Protocol,
    runs: Sequence[Run],
    store: RunStore,
    jobs: int | None,
    device: Device,
    data_root: Path | None,
    wandb: Mode,
    ray: str | None,
    force: bool,
    reuse: Sequence[Path] | None,
) -> list[RunRecord]:
    """Check everything that can be checked, then perform the runs."""
    if force and reuse:
        raise ProtocolError("--force repeats runs, and --reuse takes them from elsewhere; allowed: one of the two")
    known = reusable_records(reuse or ())
    terminal = Console(stderr=True, highlight=False)
    root = checked_data(protocol.benchmark.name, None if ray else device, data_root)
    if ray is not None:
        check_cluster(ray)
    store.folder.mkdir(parents=True, exist_ok=True)
    tracking = Tracking(wandb.value, store.folder.absolute())
    check_tracking(tracking)
    environment = RunEnvironment(root, store.under_way.absolute(), tracking, code_folder(name))
    check_own_code(name, runs, environment)
    try:
        return carry_out(
            runs,
            store,
            environment,
            jobs=jobs or _jobs(device, ray, len(runs)),
            force=force,
            known=known,
            cluster=ray,
            terminal=terminal,
        )
    except Interrupted as interrupted:
        terminal.print(
            f"Stopped. {interrupted.finished} of {len(runs)} runs are finished and kept in {store.folder}; "
            f"the same command{' without --force' if force else ''} goes on from there."
        )
        raise typer.Exit(INTERRUPTED) from None


def _jobs(device: Device, ray: str | None, runs: int) -> int:
    if ray not in (None, "local"):
        return runs  # a cluster knows itself how many it can take at a time
    return 1 if device is Device.cuda else usable_cpus()  # one run does not share a GPU's memory with another


def _exit_if_any_failed(records: Sequence[RunRecord]) -> None:
    bad = [record for record in records if not record.finished]
    if bad:
        diverged = sum(record.outcome == "diverged" for record in bad)
        typer.echo(
            f"{len(bad)} of {len(records)} runs failed ({diverged} diverged); the records hold what happened",
            err=True,
        )
        raise typer.Exit(SOME_RUNS_FAILED)
