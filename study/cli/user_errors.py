"""User errors without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from typer.core import TyperGroup

from study.errors import CANNOT_GO_ON, StudyError


@contextmanager
def errors_without_traceback() -> Iterator[None]:
    """Print user errors without a traceback and exit with code 2."""
    try:
        yield
    except BrokenPipeError:
        raise  # typer ends quietly where nobody reads on, as after `| head`
    except (StudyError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(CANNOT_GO_ON) from None


class Commands(TyperGroup):
    """Commands whose user errors have no traceback."""

    def invoke(self, ctx: typer.Context) -> object:
        with errors_without_traceback():
            return super().invoke(ctx)
