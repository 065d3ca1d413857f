"""User errors without a traceback."""

import typer
from typer.core import TyperGroup

from study.errors import CANNOT_GO_ON, StudyError


class Commands(TyperGroup):
    """Commands whose user errors are printed without a traceback and exit with code 2."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # typer ends quietly where nobody reads on, as after `| head`
        except (StudyError, OSError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(CANNOT_GO_ON) from None
