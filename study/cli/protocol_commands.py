"""Commands on protocol files: new."""

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from study.errors import ProtocolError


def new(path: Annotated[Path, typer.Argument(help="The file to write, ending in .toml.")]) -> None:
    """Write a short protocol of your own to start from; it runs as it is."""
    if path.suffix != ".toml":
        raise ProtocolError(f"{path}: allowed: a file name that ends in .toml")
    text = (resources.files("study.cli") / "new_protocol.toml").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ProtocolError(f"{path} exists already; name another file") from None
    typer.echo(f"written: {path}; `clreg-study run {path}` runs it")
