"""User errors and exit codes."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from study.errors import StudyError

SOME_RUNS_FAILED, CANNOT_GO_ON, INTERRUPTED = 1, 2, 130


@contextmanager
def errors_without_traceback() -> Iterator[None]:
    """Print user errors without a traceback and exit with code 2."""
    try:
        yield
    except (StudyError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(CANNOT_GO_ON) from None
