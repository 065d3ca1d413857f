"""Options that commands share."""

import errno
import os
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from study.errors import ProtocolError
from study.protocol.table import suggestion

AnyName = TypeVar("AnyName", bound=str)


class Device(StrEnum):
    """Where runs compute."""

    cpu = "cpu"
    cuda = "cuda"


class Mode(StrEnum):
    """W&B's mode."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A protocol's name (see `clreg-study list`) or a path to a .toml file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a setting, as in --set training.epochs=3; KEY= without a value removes it; repeatable. "
        "By default, the commands on a folder of records use those of its last run.",
    ),
]
Methods = Annotated[str | None, typer.Option(help="Only these methods, separated by commas.")]
Scenarios = Annotated[str | None, typer.Option("--scenario", help="Only these scenarios: task, domain, class.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at a time; by default one per CPU.")]
OnDevice = Annotated[Device, typer.Option("--device", help="Where runs compute.")]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder of the data sets; by default $CLREG_DATA_ROOT, or data in this folder.")
]
Wandb = Annotated[Mode, typer.Option("--wandb", help="offline: written for `wandb sync` later; online: sent at once.")]
Ray = Annotated[
    str | None, typer.Option(help="Run on a Ray cluster: its address, auto, or local to start one on this machine.")
]
GpusPerRun = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-run", min=0.01, max=1, help="With --ray: share of a GPU that each run on cuda takes. [default: 1]"
    ),
]
MaxSilence = Annotated[
    float | None,
    typer.Option(
        "--max-silence",
        min=0.01,
        max=1e6,
        help="Kill a run that completes no experience for so many minutes, and restart it once. Choose more than the "
        "longest takes, with its importance pass and evaluation; joint training is one. By default none is killed.",
    ),
]
Out = Annotated[Path | None, typer.Option(help="Folder to write to; by default runs/<protocol>.")]
SearchOut = Annotated[Path | None, typer.Option("--out", help="Folder to write to; by default runs/<protocol>-tuning.")]
Records = Annotated[
    Path | None, typer.Option(help="Folder of records to read, or of a report; by default runs/<protocol>.")
]
Force = Annotated[bool, typer.Option("--force", help="Repeat finished runs.")]
Reuse = Annotated[
    list[Path] | None,
    typer.Option("--reuse", help="Folder of records, or of a report: runs that it has are not repeated; repeatable."),
]
TuningFolder = Annotated[
    Path | None, typer.Option("--tuning", help="Folder of the search's records; by default runs/<protocol>-tuning.")
]


def selected(option: str, value: str | None, allowed: Iterable[AnyName]) -> list[AnyName]:
    """The names in a comma-separated option, in the protocol's order; all without the option.

    Raises:
        ProtocolError: a name is not allowed.
    """
    allowed = list(allowed)
    names = allowed if value is None else [name.strip() for name in value.split(",")]
    for name in names:
        if name not in allowed:
            raise ProtocolError(f"{option}: unknown name {name!r}{suggestion(name, allowed)}")
    return [name for name in allowed if name in names]


def check_device(device: Device | None) -> None:
    """Check that the device is there.

    Raises:
        ProtocolError: PyTorch finds no GPU.
    """
    if device is Device.cuda:
        import torch

        if not torch.cuda.is_available():
            raise ProtocolError("--device cuda: this machine has no GPU that PyTorch can use; allowed: cpu")


def check_home() -> None:
    """Check that Avalanche, which writes there when it is imported, can be imported.

    Raises:
        ProtocolError: the home folder cannot be written to.
    """
    settings = Path.home() / ".avalanche"
    try:
        settings.mkdir(parents=True, exist_ok=True)
        if not os.access(settings, os.W_OK):
            raise PermissionError(errno.EACCES, "it is read-only")
    except OSError as error:
        raise ProtocolError(
            f"HOME: {settings}, where Avalanche keeps its settings, cannot be made ({error.strerror}); "
            "allowed: a HOME that can be written to"
        ) from error


def checked_data(name: str, device: Device | None, named: Path | None) -> Path:
    """The data's root, after checking that the data, the device and a home folder are there."""
    check_home()
    check_device(device)
    if name.endswith("_digits") and named is None:
        return Path()  # comes with scikit-learn: no need to wait for torch to be imported
    own = ":" in name  # a benchmark of the user's
    if not own:
        typer.echo(f"loading {name}", err=True)  # with PyTorch, which takes some seconds
    from study.run.data import data_root, load_images

    root = data_root(named)
    if not own:
        load_images(name, root)
    return root.absolute()
