"""User errors without a traceback."""

from pathlib import Path

import typer
from typer.core import TyperCommand

from study.cli.folders import command_line
from study.errors import CANNOT_GO_ON, MissingRecords, StudyError


class Command(TyperCommand):
    """A command whose user errors are printed without a traceback, and with what to run next; exit code 2."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        for before, given in zip(("", *args), args, strict=False):
            if problem := _unusable(given):
                after = f" after {before}" if before.startswith("-") else ""
                typer.echo(f"error: the argument {given!r}{after} {problem}", err=True)
                raise typer.Exit(CANNOT_GO_ON)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # typer ends quietly where nobody reads on, as after `| head`
        except (StudyError, OSError) as error:
            typer.echo(f"error: {error}{_next(error, ctx.params)}", err=True)
            raise typer.Exit(CANNOT_GO_ON) from None


def _unusable(given: str) -> str:
    """What is wrong with an argument, whichever it is; empty if nothing is."""
    if not given or (given.startswith("--") and given.find("=") == len(given) - 1):
        return "is empty; allowed: a value"
    if "\0" in given:
        return "has a NUL character; allowed: text without"
    try:
        given.encode()
    except UnicodeEncodeError:
        return "is not UTF-8; allowed: names in UTF-8"
    return ""


def _next(error: Exception, given: dict) -> str:
    """The command that writes what is missing; empty if that is not known."""
    name = given.get("name")
    if not isinstance(error, MissingRecords) or name is None or Path(name).is_dir():
        return ""
    options = {option: given.get(option) for option in ("records", "tuning", "overrides")}
    return f"; next: {command_line(error.written_by, name, **options)}"
