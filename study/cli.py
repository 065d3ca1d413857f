"""``clreg-study``: run a protocol, look at one, search for its λ, report what came of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from study.bench.command import bench
from study.campaign import Interrupted, carry_out
from study.cluster import check_cluster
from study.conditions import Conditions
from study.execution import usable_cpus
from study.exits import INTERRUPTED, SOME_RUNS_FAILED, errors_without_traceback
from study.options import (
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
    Scenarios,
    TuningFolder,
    Wandb,
    records_and_method,
    records_folder,
    selected,
    stem,
    tuning_folder,
    tuning_records,
)
from study.protocol import FIRST_TUNING_SEED, Protocol, ProtocolError, load_protocol, protocol_names
from study.records import Run, RunRecord
from study.settings import suggestion
from study.store import RecordError, RunStore
from study.tracking import Tracking, check_tracking
from study.tuning import choose, resolve, tuning_runs

if TYPE_CHECKING:
    from study.repeat import Repetition

FIGURES = ["two-parameters"]

app = typer.Typer(
    help="Continual-learning protocols over seeds, with the methods of clreg.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of the console script."""
    app()


@app.command("list")
def list_protocols() -> None:
    """Name the protocols that come with clreg."""
    with errors_without_traceback():
        for name in protocol_names():
            typer.echo(f"{name}: {load_protocol(name).title}")


@app.command()
def show(name: Name, overrides: Overrides = None) -> None:
    """Say what a protocol does."""
    from study.reporting.tables import protocol_table

    with errors_without_traceback():
        protocol = load_protocol(name, overrides or ())
        console = Console(highlight=False)
        console.print(protocol.title, style="bold", markup=False)
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
    seeds: Annotated[int | None, typer.Option(min=1, max=FIRST_TUNING_SEED, help="How many seeds.")] = None,
    methods: Methods = None,
    scenario: Scenarios = None,
    jobs: Jobs = None,
    device: OnDevice = Device.cpu,
    data_root: DataRoot = None,
    wandb: Wandb = Mode.offline,
    ray: Ray = None,
    out: Out = None,
    tuning: TuningFolder = None,
    force: Force = False,
    overrides: Overrides = None,
) -> None:
    """Train every method in every scenario over the seeds, and print what came of it.

    Finished runs are kept and not repeated: after an interrupt the same command goes on.
    """
    from study.reporting.tables import method_results, scenario_table

    with errors_without_traceback():
        protocol = load_protocol(name, overrides or ())
        scenarios = selected("--scenario", scenario, protocol.scenarios)
        chosen = selected("--methods", methods, list(protocol.methods))
        choices = choose(stem(name), protocol, tuning_records(name, tuning))
        runs = []
        for seed in range(seeds or protocol.seeds):
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
        records = _carry_out(protocol, runs, store, jobs, device, data_root, wandb, ray, force)
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
    force: Force = False,
    overrides: Overrides = None,
) -> None:
    """Search for each method's λ, on seeds that no report uses, validated on a part of the training data."""
    from study.reporting.tables import choice_table, strength_toml

    with errors_without_traceback():
        protocol = load_protocol(name, overrides or ())
        scenarios = selected("--scenario", scenario, protocol.scenarios)
        chosen = selected("--methods", methods, list(protocol.methods))
        runs = tuning_runs(stem(name), protocol, scenarios, chosen, device.value)
        store = RunStore(out or tuning_folder(name))
        records = _carry_out(protocol, runs, store, jobs, device, data_root, wandb, ray, force)
        choices = choose(stem(name), protocol, records)
        Console().print(choice_table(protocol.title, choices))
        typer.echo(f"[strength]\n{strength_toml(choices)}")
        _exit_if_any_failed(records)


@app.command()
def status(name: Name, out: Out = None, overrides: Overrides = None) -> None:
    """Say how far a study is, from another terminal or after an interrupt."""
    from study.progress import runs_under_way, status_table, under_way_table

    with errors_without_traceback():
        protocol = load_protocol(name, overrides or ())
        store = RunStore(out or records_folder(name))
        running = runs_under_way(store.under_way)
        records = store.read_all(or_none=bool(running))
        console = Console(highlight=False)
        console.print(status_table(protocol, records))
        if running:
            console.print("begun and not ended:")
            console.print(under_way_table(running))


@app.command()
def report(
    name: Name,
    records: Annotated[
        Path | None, typer.Option(help="Folder of the records, or of a report; by default runs/<protocol>.")
    ] = None,
    tuning: TuningFolder = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; by default <records>/report.")] = None,
    overrides: Overrides = None,
) -> None:
    """Write what the records say: Markdown, one HTML page, LaTeX tables, figures, CSV and Parquet."""
    with errors_without_traceback():
        protocol = load_protocol(name, overrides or ())
        folder = records or records_folder(name)
        found = RunStore(folder).read_all()
        searched = tuning_records(name, tuning, beside=folder)
        from study.reporting.attachments import read_attachments
        from study.reporting.report import write_report  # here, since the other commands need not wait for matplotlib

        target = out or folder / "report"
        attachments = read_attachments([target, folder], protocol)
        page = write_report(stem(name), protocol, found, searched, target, attachments)
        typer.echo(f"written: {page}")


@app.command()
def overview(
    folder: Annotated[Path, typer.Argument(help="Folder with reports below it.")] = Path("reports"),
) -> None:
    """Write one page on all reports below a folder: every published number tried, and what came of it."""
    with errors_without_traceback():
        from study.reporting.overview import write_overview

        typer.echo(f"written: {write_overview(folder)}")


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A protocol or a folder of records, with :METHOD for one.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
) -> None:
    """Test one set of runs against another, paired by seed: methods, or the same methods under other settings."""
    from study.reporting.comparison import comparison_table

    with errors_without_traceback():
        (a_records, a_method), (b_records, b_method) = (records_and_method(argument) for argument in (a, b))
        Console().print(comparison_table((a, a_records, a_method), (b, b_records, b_method)))


@app.command()
def agreement(
    name: Name,
    seeds: Annotated[int, typer.Option(min=1, max=FIRST_TUNING_SEED, help="How many seeds.")] = 3,
    scenario: Scenarios = None,
    data_root: DataRoot = None,
    out: Annotated[Path | None, typer.Option(help="Folder for agreement.csv; by default runs/<protocol>.")] = None,
    overrides: Overrides = None,
) -> None:
    """Compare the importances of a protocol's EWC methods with the exact one on the same networks, and their cost.

    `report` takes what it writes into the report on the same folder.
    """
    with errors_without_traceback():
        protocol = load_protocol(name, overrides or ())
        scenarios = selected("--scenario", scenario, protocol.scenarios)
        conditions = Conditions(_checked_data(protocol.benchmark.name, Device.cpu, data_root))
        from study.agreement import measure_agreement
        from study.alike import AGREEMENT, write_agreement

        rows = []
        for kind in scenarios:
            for seed in range(seeds):
                for row in measure_agreement(stem(name), protocol, kind, seed, conditions):
                    rows.append(row)
                    where = f"{kind}, seed {seed}, experience {row.experience}, {row.method}"
                    typer.echo(f"{where}: {row.epochs:.2f} epochs, rank correlation {row.spearman:.3f}")
        path = (out or records_folder(name)) / AGREEMENT
        write_agreement(rows, path)
        typer.echo(f"written: {path}")


@app.command()
def repeat(
    folder: Annotated[Path, typer.Argument(help="Folder of the records, or of a report.")],
    methods: Methods = None,
    scenario: Scenarios = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the runs.")] = 0,
    data_root: DataRoot = None,
) -> None:
    """Perform recorded runs again, and say whether they give the same numbers, to the last bit."""
    from study.repeat import perform_again

    with errors_without_traceback():
        there = [record for record in RunStore(folder).read_all() if record.run.seed == seed]
        if not there:
            raise RecordError(f"{folder} has no record with seed {seed}")
        labels = selected("--methods", methods, list(dict.fromkeys(record.run.label for record in there)))
        kinds = selected("--scenario", scenario, list(dict.fromkeys(record.run.scenario for record in there)))
        records = [record for record in there if record.run.label in labels and record.run.scenario in kinds]
        device = Device.cuda if any(record.run.device == "cuda" for record in records) else Device.cpu
        for name in {record.run.benchmark.name for record in records}:
            root = _checked_data(name, device, data_root)
        others = 0
        for record in records:
            repetition = perform_again(record, Conditions(root))
            others += not repetition.same
            typer.echo(f"{record.run}: {_came_to(repetition)}")
        if others:
            raise typer.Exit(SOME_RUNS_FAILED)


def _came_to(repetition: "Repetition") -> str:
    if repetition.same:
        return "the same numbers to the last bit"
    conditions = f" ({'; '.join(repetition.conditions)})" if repetition.conditions else ""
    return f"other numbers, accuracies by up to {repetition.largest_difference:.2f} points{conditions}"


@app.command()
def figure(
    name: Annotated[
        str, typer.Argument(help="two-parameters: where no penalty, L2 and EWC end on two tasks with two parameters.")
    ],
    out: Annotated[Path | None, typer.Option(help="SVG file; by default reports/<figure>.svg.")] = None,
) -> None:
    """Compute and draw a figure that needs no records."""
    with errors_without_traceback():
        if name not in FIGURES:
            raise ProtocolError(f"unknown figure {name!r}{suggestion(name, FIGURES)}")
        from study.trajectories import draw, trajectories  # here, as torch above

        path = out or Path("reports") / f"{name}.svg"
        draw(trajectories(), path)
        typer.echo(f"drawn: {path}")


app.command()(bench)


# ------------------------------------------------------------------------------- what commands share


def _carry_out(
    protocol: Protocol,
    runs: Sequence[Run],
    store: RunStore,
    jobs: int | None,
    device: Device,
    data_root: Path | None,
    wandb: Mode,
    ray: str | None,
    force: bool,
) -> list[RunRecord]:
    """The records of runs, after all that can be checked before the first of them has been."""
    terminal = Console(stderr=True, highlight=False)
    store.folder.mkdir(parents=True, exist_ok=True)
    if ray is not None:
        check_cluster(ray)
    tracking = Tracking(wandb.value, store.folder.absolute())
    check_tracking(tracking)
    root = _checked_data(protocol.benchmark.name, None if ray else device, data_root)
    conditions = Conditions(root, store.under_way.absolute(), tracking)
    try:
        return carry_out(
            runs,
            store,
            conditions,
            jobs=jobs or _jobs(device, ray, len(runs)),
            force=force,
            cluster=ray,
            terminal=terminal,
        )
    except Interrupted as interrupted:
        terminal.print(
            f"Stopped. {interrupted.finished} of {len(runs)} runs are finished and kept in {store.folder}; "
            f"the same command{' without --force' if force else ''} goes on from there."
        )
        raise typer.Exit(INTERRUPTED) from None


def _checked_data(name: str, device: Device | None, data_root: Path | None) -> Path:
    """The root of the data, which is there, as is the device, where it is this machine that needs it."""
    if name == "split_digits" and device is not Device.cuda and data_root is None:
        return Path()  # comes with scikit-learn: no need to wait for torch to be imported
    import torch

    from study.data import default_root, load_images

    if device is Device.cuda and not torch.cuda.is_available():
        raise ProtocolError("--device cuda: this machine has no GPU that PyTorch can use; allowed: cpu")
    root = data_root or default_root()
    load_images(name, root)
    return root.absolute()


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
