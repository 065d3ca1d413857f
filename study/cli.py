"""``clreg-study``: run a protocol, look at one, search for its λ."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from study.execution import execute, usable_cpus
from study.protocol import FIRST_TUNING_SEED, ProtocolError, load_protocol, protocol_names, suggestion
from study.records import RecordError, Run, RunRecord, RunStore
from study.reporting.tables import choice_table, method_results, protocol_table, scenario_table, strength_toml
from study.tuning import choose, tuning_runs

SOME_RUNS_FAILED, CANNOT_GO_ON, INTERRUPTED = 1, 2, 130

FIGURES = ["two-parameters"]

AnyName = TypeVar("AnyName", bound=str)

app = typer.Typer(
    help="Continual-learning protocols over seeds, with the methods of clreg.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Name = Annotated[str, typer.Argument(help="A protocol's name (see `clreg-study list`) or a path to a .toml file.")]
Methods = Annotated[str | None, typer.Option(help="Only these methods, separated by commas.")]
Scenarios = Annotated[str | None, typer.Option("--scenario", help="Only these scenarios: task, domain, class.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at a time; by default one a CPU.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the records; by default runs/<protocol>.")]
Force = Annotated[bool, typer.Option("--force", help="Repeat runs that are finished already.")]


def main() -> None:
    """Entry point of the console script."""
    app()


@app.command("list")
def list_protocols() -> None:
    """Name the protocols that come with clreg."""
    with _errors_without_traceback():
        for name in protocol_names():
            typer.echo(f"{name}: {load_protocol(name).title}")


@app.command()
def show(name: Name) -> None:
    """Say what a protocol does."""
    with _errors_without_traceback():
        protocol = load_protocol(name)
        console = Console(highlight=False)
        console.print(f"[bold]{protocol.title}[/bold]\n{' '.join(protocol.description.split())}\n")
        for key in ("benchmark", "model", "training"):
            settings = getattr(protocol, key).model_dump().items()
            console.print(f"{key}: " + ", ".join(f"{option} = {value}" for option, value in settings))
        console.print(f"scenarios: {', '.join(protocol.scenarios)}; seeds: {protocol.seeds}\n")
        console.print(protocol_table(protocol))


@app.command()
def run(
    name: Name,
    seeds: Annotated[int | None, typer.Option(min=1, max=FIRST_TUNING_SEED, help="How many seeds.")] = None,
    methods: Methods = None,
    scenario: Scenarios = None,
    jobs: Jobs = None,
    out: Out = None,
    force: Force = False,
) -> None:
    """Train every method in every scenario over the seeds, and print what came of it.

    Finished runs are kept and not repeated: after an interrupt the same command goes on.
    """
    with _errors_without_traceback():
        protocol = load_protocol(name)
        scenarios = _selected("--scenario", scenario, protocol.scenarios)
        chosen = _selected("--methods", methods, list(protocol.methods))
        runs = [
            Run.of(_stem(name), protocol, scenario, method, seed)
            for seed in range(seeds or protocol.seeds)
            for scenario in scenarios
            for method in chosen
        ]
        records = _carry_out(runs, RunStore(out or Path("runs") / _stem(name)), jobs, force)
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
    out: Annotated[Path | None, typer.Option(help="Folder of the records; by default runs/<protocol>-tuning.")] = None,
    force: Force = False,
) -> None:
    """Search for each method's λ, on seeds that no report uses, validated on a part of the training data."""
    with _errors_without_traceback():
        protocol = load_protocol(name)
        scenarios = _selected("--scenario", scenario, protocol.scenarios)
        chosen = _selected("--methods", methods, list(protocol.methods))
        runs = tuning_runs(_stem(name), protocol, scenarios, chosen)
        records = _carry_out(runs, RunStore(out or Path("runs") / f"{_stem(name)}-tuning"), jobs, force)
        choices = choose(records)
        Console().print(choice_table(protocol.title, choices))
        typer.echo(f"[strength]\n{strength_toml(choices)}")
        _exit_if_any_failed(records)


@app.command()
def cost(
    rounds: Annotated[int, typer.Option(min=1, help="Turns that every measured mode has.")] = 15,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of PyTorch.")] = usable_cpus(),
) -> None:
    """Measure what the plugins cost, as ratios within this one process."""
    import torch  # here, since the other commands need not wait for it to be imported

    from study import cost as measured

    torch.set_num_threads(threads)
    for hidden in (400, 1000):
        typer.echo(f"training step over that without penalty, MLP 784-{hidden}-{hidden}-10, {threads} threads:")
        for name, ratio in measured.step_ratios(hidden, rounds).items():
            typer.echo(f"  {name:18} {ratio:.2f}")
    typer.echo(f"importance pass in training epochs, MLP 784-400-400-10, 12,000 samples, {threads} threads:")
    for name, ratio in measured.pass_ratios(max(3, rounds // 3)).items():
        typer.echo(f"  {name:18} {ratio:.2f}")


@app.command()
def figure(
    name: Annotated[
        str, typer.Argument(help="two-parameters: where no penalty, L2 and EWC end on two tasks with two parameters.")
    ],
    out: Annotated[Path | None, typer.Option(help="SVG file; by default reports/<figure>.svg.")] = None,
) -> None:
    """Compute and draw a figure that needs no records."""
    with _errors_without_traceback():
        if name not in FIGURES:
            raise ProtocolError(f"unknown figure {name!r}{suggestion(name, FIGURES)}")
        from study.trajectories import draw, trajectories  # here, as torch above

        path = out or Path("reports") / f"{name}.svg"
        draw(trajectories(), path)
        typer.echo(f"drawn: {path}")


def _carry_out(runs: Sequence[Run], store: RunStore, jobs: int | None, force: bool) -> list[RunRecord]:
    """The records of all runs, in their order, with those that are not finished performed first."""
    store.folder.mkdir(parents=True, exist_ok=True)
    records: dict[str, RunRecord] = {}
    if not force:
        records = {run.id: record for run in runs if (record := store.read(run)) and record.finished}
    missing = [run for run in runs if run.id not in records]
    terminal = Console(stderr=True, highlight=False)
    if records:
        terminal.print(f"{len(records)} of {len(runs)} runs are finished already, in {store.folder}")
    jobs = max(1, min(jobs or usable_cpus(), len(missing)))
    try:
        with (
            _progress(terminal, jobs, len(missing)) as advance,
            closing(execute(missing, store, jobs)) as ended,
        ):
            for record in ended:
                records[record.id] = record
                advance(record)
    except KeyboardInterrupt:
        finished = sum(record.finished for record in records.values())
        terminal.print(
            f"Stopped. {finished} of {len(runs)} runs are finished and kept in {store.folder}; "
            f"the same command{' without --force' if force else ''} goes on from there."
        )
        raise typer.Exit(INTERRUPTED) from None
    return [records[run.id] for run in runs]


@contextmanager
def _progress(terminal: Console, jobs: int, total: int) -> Iterator[Callable[[RunRecord], None]]:
    """A bar, and the function that moves it on by a run that ended."""
    failed = 0
    with Progress(
        TextColumn("{task.completed} of {task.total} runs done, {task.fields[running]} running"),
        TextColumn("{task.fields[failed]} failed"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=terminal,
    ) as progress:
        bar = progress.add_task("", total=total, running=min(jobs, total), failed=failed)

        def advance(record: RunRecord) -> None:
            nonlocal failed
            if not record.finished:
                failed += 1
                terminal.print(f"failed: {record.run}: {_last_line(record.error)}", style="red")
            left = total - progress.tasks[bar].completed - 1
            progress.update(bar, advance=1, running=min(jobs, int(left)), failed=failed)

        yield advance


def _exit_if_any_failed(records: Sequence[RunRecord]) -> None:
    failed = [record.run for record in records if not record.finished]
    if failed:
        typer.echo(f"{len(failed)} of {len(records)} runs failed; their records hold the tracebacks", err=True)
        raise typer.Exit(SOME_RUNS_FAILED)


@contextmanager
def _errors_without_traceback() -> Iterator[None]:
    """What a user can put right is said without a traceback."""
    try:
        yield
    except (ProtocolError, RecordError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(CANNOT_GO_ON) from None


def _selected(option: str, value: str | None, allowed: list[AnyName]) -> list[AnyName]:
    """The names in a comma-separated option, in the protocol's order; all of them without the option."""
    if value is None:
        return allowed
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in allowed:
            raise ProtocolError(f"{option}: unknown name {name!r}{suggestion(name, allowed)}")
    return [name for name in allowed if name in names]


def _stem(name: str) -> str:
    return Path(name).name.removesuffix(".toml")


def _last_line(text: str | None) -> str:
    return (text or "").strip().rpartition("\n")[2]
