"""Folders of records: their defaults, and what commands read from them."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import typer

from study.errors import MissingRecords, ProtocolError
from study.protocol.load import load_protocol
from study.protocol.schema import Protocol
from study.protocol.table import suggestion
from study.records.code_versions import of_one_version
from study.records.request import Request, read_request
from study.records.run_record import RunRecord
from study.records.store import ARCHIVE, TUNING_ARCHIVE, RecordError, RunStore, kept_search


def stem(name: str) -> str:
    """A protocol's name without the path and ending of its file."""
    return Path(name).name.removesuffix(".toml")


def code_folder(name: str) -> Path:
    """What files of the user's own code are relative to: the folder of the protocol file, of a report, or this one."""
    if (Path(name) / ARCHIVE).is_file():
        return Path(name).absolute()
    return (Path(name).parent if name.endswith(".toml") else Path()).absolute()


def records_folder(name: str) -> Path:
    """Where ``run`` writes by default."""
    return Path("runs") / stem(name)


def tuning_folder(name: str) -> Path:
    """Where ``tune`` writes by default."""
    return Path("runs") / f"{stem(name)}-tuning"


def command_line(
    command: str,
    name: str,
    *,
    records: Path | None = None,
    tuning: Path | None = None,
    overrides: Sequence[str] | None = None,
    device: str = "cpu",
    more: Mapping[str, object] | None = None,
) -> str:
    """``run``, ``tune``, ``report`` or ``curvature`` of a protocol, to copy into a shell, with the options needed.

    ``more`` are further options by name; those that are None are left out, as are folders.
    """
    folders = {
        "tune": {"--out": tuning},
        "run": {"--out": records, "--tuning": tuning},
        "report": {"--records": records, "--tuning": tuning},
        "curvature": {"--tuning": tuning},
    }[command]
    given = {**(more or {}), **folders}
    options = [(option, str(value)) for option, value in given.items() if value is not None]
    options += [("--set", override) for override in overrides or ()] + [("--device", device)] * (device != "cpu")
    return shlex.join(["clreg-study", command, name, *(word for option in options for word in option)])


def protocol_as_run(name: str, overrides: Sequence[str] | None, folder: Path) -> tuple[Protocol, Request | None]:
    """A protocol with the settings that the folder's last run was given by ``--set``, unless there are others.

    Returns:
        The protocol, and what was asked for with these settings, if that is known.
    """
    request = read_request(folder)
    if request is not None and request.protocol != stem(name):
        request = None
    if request is not None and request.overrides and not overrides:
        overrides = request.overrides
        typer.echo(f"settings of the last run in {folder}: --set {' --set '.join(overrides)}", err=True)
    same = request is not None and request.overrides == list(overrides or ())
    return load_protocol(name, overrides or ()), request if same else None


def tuning_records(name: str, folder: Path | None, archived_in: Path | None = None) -> list[RunRecord]:
    """The records of the search; none if there was none, unless a folder is named.

    Args:
        name: the protocol's.
        folder: of the search or of a report on it; None for the default of ``clreg-study tune``.
        archived_in: a folder of records that takes precedence over the default if it is a report with its search.

    Raises:
        RecordError: a record is damaged.
        MissingRecords: the named folder has none of a search.
    """
    archived = archived_in is not None and (archived_in / TUNING_ARCHIVE).is_file()
    source = folder or (archived_in if archived else tuning_folder(name))
    every = kept_search(source) or RunStore(source).read_all(or_none=True)
    found = [record for record in every if record.run.evaluated_on == "validation"]
    if folder is not None and not found:
        raise MissingRecords(f"there are no records of a search in {folder}", "tune")
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


def command_to_repeat(name: str, protocol: Protocol, **options: object) -> str:
    """As :func:`command_line`, for all runs of a protocol, with the search before them if it has one."""
    tuned = any("tuned" in by_scenario.values() for by_scenario in protocol.strength.values())
    return " && ".join(command_line(command, name, **options) for command in [*["tune"] * tuned, "run"])


def records_saying_what_is_left_out(
    folder: Path, current: Mapping[str, str | None] | None = None, again: str = ""
) -> list[RunRecord]:
    """The records in a folder, see :func:`of_one_version`; what is left out is named on the terminal.

    Raises:
        RecordError: a record is damaged.
        MissingRecords: there is none.
    """
    there = RunStore(folder).contents()
    records, sentences = of_one_version(there.whole(), current, again)
    for sentence in [*there.left_out, *sentences]:
        typer.echo(sentence, err=True)
    return records


def folder_named(name: str) -> Path:
    """The folder of that name, or the default records folder of the protocol of that name."""
    return Path(name) if Path(name).is_dir() else records_folder(name)


def records_of_the_current_code(name: str) -> list[RunRecord]:
    """The records of a protocol or in a folder, for a protocol's file of the versions of its code as they are now.

    Raises:
        RecordError: a record is damaged.
        MissingRecords: there is none, or none of these versions.
    """
    folder = folder_named(name)
    if folder == Path(name) or not Path(name).is_file():
        return records_saying_what_is_left_out(folder)
    protocol, request = protocol_as_run(name, None, folder)
    again = command_to_repeat(name, protocol, overrides=request.overrides if request else None)
    records = records_saying_what_is_left_out(folder, protocol.own_code, again)
    if not records:
        raise MissingRecords(f"no record in {folder} was made with the code that {name} names as it is now", "run")
    return records


def records_and_method(argument: str) -> tuple[list[RunRecord], str | None]:
    """The records and method that ``PROTOCOL[:METHOD]`` or ``FOLDER[:METHOD]`` names.

    Raises:
        MissingRecords: there are no records.
        ProtocolError: there are none of that method.
    """
    name, colon, method = argument.rpartition(":") if ":" in argument else (argument, "", "")
    folder = folder_named(name)
    records = [record for record in records_of_the_current_code(name) if record.run.evaluated_on == "test"]
    methods = sorted({record.run.label for record in records})
    if colon and method not in methods:
        raise ProtocolError(f"{argument}: no records of method {method!r} in {folder}{suggestion(method, methods)}")
    return records, method or None
