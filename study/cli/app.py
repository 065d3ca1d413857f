"""``clreg-study``: the commands."""

from importlib.metadata import version
from typing import Annotated

import typer

from study.bench.command import bench
from study.cli.curvature_command import curvature
from study.cli.options import Name, Overrides
from study.cli.protocol_commands import new
from study.cli.record_commands import agreement, compare, overview, repeat, report
from study.cli.run_commands import run, tune
from study.cli.status_command import status
from study.cli.terminal import console, print_table
from study.cli.user_errors import Commands
from study.protocol.load import load_protocol, packaged_text, protocol_names

app = typer.Typer(
    cls=Commands,
    help="Continual-learning protocols over seeds, with the methods of clreg.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"clreg {version('clreg')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Continual-learning protocols over seeds, with the methods of clreg."""


@app.command("list")
def list_protocols() -> None:
    """Name the protocols that come with clreg."""
    for name in protocol_names():
        typer.echo(f"{name}: {load_protocol(name).title}")


@app.command()
def show(
    name: Name,
    overrides: Overrides = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print the file of a protocol that comes with clreg.")] = False,
) -> None:
    """Print what a protocol does."""
    if toml:
        typer.echo(packaged_text(name), nl=False)
        return
    from study.report.terminal_tables import protocol_table

    protocol = load_protocol(name, overrides or ())
    to = console()
    to.print(protocol.title, style="bold", markup=False)
    if protocol.description:
        to.print(" ".join(protocol.description.split()) + "\n", markup=False)
    for key in ("benchmark", "model", "training"):
        settings = getattr(protocol, key).model_dump(exclude_none=True).items()
        to.print(f"{key}: " + ", ".join(f"{option} = {value}" for option, value in settings), markup=False)
    to.print(f"scenarios: {', '.join(protocol.scenarios)}; seeds: {protocol.seeds}")
    to.print(f"λ: {protocol.strength_source}\n", markup=False)
    print_table(protocol_table(protocol))
    for table in protocol.published:
        to.print(f"published: {table.source} ({sum(map(len, table.results.values()))} numbers)", markup=False)


for command in (new, run, tune, status, report, overview, compare, agreement, curvature, repeat, bench):
    app.command()(command)
