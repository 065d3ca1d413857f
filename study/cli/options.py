"""Options shared by commands."""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from study.errors import ProtocolError
from study.protocol.settings import suggestion
from study.records.run_record import RunRecord
from study.records.store import TUNING_ARCHIVE, RecordError, RunStore, kept_search

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


Name = Annotated[str, typer.Argument(help="A protocol's name (see `clreg-study list`) or a path to a .toml file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a setting, as in --set training.epochs=3; KEY= without a value removes it; repeatable.",
    ),
]
Methods = Annotated[str | None, typer.Option(help="Only these methods, separated by commas.")]
Scenarios = Annotated[str | None, typer.Option("--scenario", help="Only these scenarios: task, domain, class.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at a time; by default one a CPU.")]
OnDevice = Annotated[Device, typer.Option("--device", help="Where runs compute.")]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder of the data sets; by default $CLREG_DATA_ROOT, or data in this folder.")
]
Wandb = Annotated[Mode, typer.Option("--wandb", help="offline: written for `wandb sync` later; online: sent at once.")]
Ray = Annotated[
    str | None, typer.Option(help="Run on a Ray cluster: its address, auto, or local to start one on this machine.")
]
Out = Annotated[Path | None, typer.Option(help="Folder of the records; by default runs/<protocol>.")]
Force = Annotated[bool, typer.Option("--force", help="Repeat runs that are finished already.")]
Reuse = Annotated[
    list[Path] | None,
    typer.Option("--reuse", help="Folder of records, or of a report: runs that it has are not repeated; repeatable."),
]
TuningFolder = Annotated[
    Path | None, typer.Option("--tuning", help="Records of the search; by default runs/<protocol>-tuning.")
]


def selected(option: str, value: str | None, allowed: list[AnyName]) -> list[AnyName]:
    """The names in a comma-separated option, in the protocol's order; all without the option.

    Raises:
        ProtocolError: a name is not allowed.
    """
    if value is None:
        return allowed
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in allowed:
            raise ProtocolError(f"{option}: unknown name {name!r}{suggestion(name, allowed)}")
    return [name for name in allowed if name in names]


def stem(name: str) -> str:
    """A protocol's name without the path and ending of its file."""
    return Path(name).name.removesuffix(".toml")


def records_folder(name: str) -> Path:
    """Where the records of a protocol go by default."""
    return Path("runs") / stem(name)


def tuning_folder(name: str) -> Path:
    """Where the records of the search for its hyperparameters go by default."""
    return Path("runs") / f"{stem(name)}-tuning"


def tuning_records(name: str, folder: Path | None, archived_in: Path | None = None) -> list[RunRecord]:
    """The records of the search; none if there was none, unless a folder is named.

    Args:
        name: the protocol's.
        folder: of the search or of a report on it; None for the default of ``clreg-study tune``.
        archived_in: a folder of records that takes precedence over the default if it is a report with its search.

    Raises:
        RecordError: a record is damaged, or the named folder has none of a search.
    """
    if folder is None:
        archived = archived_in is not None and (archived_in / TUNING_ARCHIVE).is_file()
        return _of_a_search(archived_in if archived else tuning_folder(name))
    found = _of_a_search(folder)
    if not found:
        raise RecordError(f"there are no records of a search in {folder}; `clreg-study tune {name}` writes them")
    return found


def reusable_records(folders: Iterable[Path]) -> list[RunRecord]:
    """The records of all folders, including searches.

    Raises:
        RecordError: a folder has none, or a record is damaged.
    """
    found = []
    for folder in folders:
        records = RunStore(folder).read_all(or_none=True) + kept_search(folder)
        if not records:
            raise RecordError(f"--reuse: there are no records in {folder}")
        found += records
    return found


def _of_a_search(folder: Path) -> list[RunRecord]:
    return kept_search(folder) or [
        record for record in RunStore(folder).read_all(or_none=True) if record.run.evaluated_on == "validation"
    ]


def records_saying_what_is_left_out(folder: Path) -> list[RunRecord]:
    """Every record in a folder; other JSON files are named on the terminal.

    Raises:
        RecordError: a record is damaged, or there is none.
    """
    there = RunStore(folder).contents()
    records = there.whole()
    for sentence in there.left_out:
        typer.echo(sentence, err=True)
    return records


def folder_named(name: str) -> Path:
    """The folder of that name, or the default records folder of the protocol of that name."""
    return Path(name) if Path(name).is_dir() else records_folder(name)


def records_and_method(argument: str) -> tuple[list[RunRecord], str | None]:
    """The records and method that ``PROTOCOL[:METHOD]`` or ``FOLDER[:METHOD]`` names.

    Raises:
        RecordError: there are no records.
        ProtocolError: there are none of that method.
    """
    name, colon, method = argument.rpartition(":") if ":" in argument else (argument, "", "")
    folder = folder_named(name)
    records = [record for record in records_saying_what_is_left_out(folder) if record.run.evaluated_on == "test"]
    methods = sorted({record.run.label for record in records})
    if colon and method not in methods:
        raise ProtocolError(f"{argument}: no records of method {method!r} in {folder}{suggestion(method, methods)}")
    return records, method or None


def check_device(device: Device | None) -> None:
    """Check that the device is there.

    Raises:
        ProtocolError: PyTorch finds no GPU.
    """
    if device is Device.cuda:
        import torch

        if not torch.cuda.is_available():
            raise ProtocolError("--device cuda: this machine has no GPU that PyTorch can use; allowed: cpu")


def checked_data(name: str, device: Device | None, named: Path | None) -> Path:
    """The data's root, after checking that the data and the device are there."""
    check_device(device)
    if name.endswith("_digits") and named is None:
        return Path()  # comes with scikit-learn: no need to wait for torch to be imported
    from study.run.data import data_root, load_images

    root = data_root(named)
    load_images(name, root)
    return root.absolute()
