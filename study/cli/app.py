"""``clreg-study``: the commands."""

from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from study.bench.command import bench
from study.cli.curvature_command import curvature
from study.cli.folders import command_line
from study.cli.options import Name, Overrides
from study.cli.record_commands import agreement, compare, overview, repeat, report
from study.cli.run_commands import run, tune
from study.cli.status_command import status
from study.cli.terminal import console, print_table
from study.cli.user_errors import Command
from study.errors import ProtocolError
from study.protocol.load import load_protocol, packaged_text, protocol_names

app = typer.Typer(
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


@app.command("list", cls=Command)
def list_protocols() -> None:
    """Name the protocols that come with clreg."""
    for name in protocol_names():
        typer.echo(f"{name}: {load_protocol(name).title}")


@app.command(cls=Command)
def show(
    name: Name,
    overrides: Overrides = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print the file of a protocol that comes with clreg.")] = False,
) -> None:
    """Print what a protocol does."""
    if toml:
        typer.echo(packaged_text(name), nl=False)
        return
    from study.report.terminal_tables import protocol_table, settings_text

    protocol = load_protocol(name, overrides or ())
    to = console()
    to.print(protocol.title, style="bold", markup=False)
    if protocol.description:
        to.print(" ".join(protocol.description.split()) + "\n", markup=False)
    for key in ("benchmark", "model", "training"):
        to.print(f"{key}: {settings_text(getattr(protocol, key))}", markup=False)
    for file, found in protocol.own_code.items():
        to.print(f"code: {file} ({f'hash {found}' if found else 'there is no such file'})", markup=False)
    to.print(f"scenarios: {', '.join(protocol.scenarios)}; seeds: {protocol.seeds}")
    to.print(f"source of λ: {protocol.strength_source}\n", markup=False)
    print_table(protocol_table(protocol))
    for table in protocol.published:
        to.print(f"published: {table.source}; numbers: {sum(map(len, table.results.values()))}", markup=False)


@app.command(cls=Command)
def new(path: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write, ending in .toml.")]) -> None:
    """Write a short protocol of your own to start from; it runs as it is."""
    if path.suffix != ".toml":
        raise ProtocolError(f"{path}: allowed: a file name that ends in .toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write((resources.files("study.cli") / "new_protocol.toml").read_text(encoding="utf-8"))
    except FileExistsError:
        raise ProtocolError(f"{path} exists already; name another file") from None
    typer.echo(f"written: {path}; next: {command_line('run', str(path))}")


for command in (run, tune, status, report, overview, compare, agreement, curvature, repeat, bench):
    app.command(cls=Command)(command)
