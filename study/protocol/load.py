"""A protocol's name or file -> the protocol, with overrides applied."""

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from study.errors import ProtocolError
from study.protocol.overrides import apply_override
from study.protocol.own_code import source_hash
from study.protocol.schema import Protocol
from study.protocol.table import own_kind, suggestion
from study.protocol.validation_messages import validation_messages


def protocol_names() -> list[str]:
    """The protocols that come with the package, sorted."""
    return sorted(path.name.removesuffix(".toml") for path in _folder().iterdir() if path.name.endswith(".toml"))


def load_protocol(name: str, overrides: Sequence[str] = ()) -> Protocol:
    """The protocol of a name, or of a file if ``name`` ends in ``.toml``.

    Args:
        name: as ``clreg-study list`` has it, or a path.
        overrides: see :func:`study.protocol.overrides.apply_override`; they are validated like the file.

    Raises:
        ProtocolError: there is none, or the file or an override is wrong.
    """
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ProtocolError(f"there is no protocol file {name}") from None
        except UnicodeDecodeError as error:
            raise ProtocolError(f"{name} is not a text file in UTF-8: {error}") from error
        return parse_protocol(text, name, overrides)
    return parse_protocol(packaged_text(name), f"{name}.toml", overrides)


def packaged_text(name: str) -> str:
    """The file of a protocol that comes with the package; ProtocolError if there is none of that name."""
    if name not in protocol_names():
        names = [*protocol_names(), *([f"{name}.toml"] if Path(f"{name}.toml").is_file() else [])]
        where = "those of `clreg-study list`, or a path to a .toml file"
        raise ProtocolError(f"unknown protocol {name!r}{suggestion(name, names, where)}")
    return (_folder() / f"{name}.toml").read_text(encoding="utf-8")


def parse_protocol(text: str, file: str, overrides: Sequence[str] = ()) -> Protocol:
    """The protocol in the text of ``file``, with overrides; ProtocolError names every error in a line of its own.

    Where it names the user's own code, the hash of the code's file is put in; the code is not imported.
    """
    try:
        data = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and what Python says of a number of too many digits
        raise ProtocolError(f"{file} is not TOML: {error}") from error
    except RecursionError:
        raise ProtocolError(f"{file} is nested too deeply to be a protocol") from None
    for override in overrides:
        apply_override(override, data)
    _complete_own_code(data, Path(file).parent)
    source = file if not overrides else f"{file} with --set {' '.join(overrides)}"
    try:
        return Protocol.model_validate(data)
    except ValidationError as error:
        raise ProtocolError("\n".join(f"{source}: {line}" for line in validation_messages(error))) from error


def _complete_own_code(data: dict[str, Any], folder: Path) -> None:
    """Put in the hashes of the user's own code, and the keyword for λ of methods with a strength."""
    methods, strength = (data[key] if isinstance(data.get(key), dict) else {} for key in ("methods", "strength"))
    for name, method in methods.items():
        if own_kind(method) and name in strength:
            method.setdefault("strength_argument", "reg_lambda")
    for table in (data.get("benchmark"), data.get("model"), *methods.values()):
        key = own_kind(table)
        if key:
            table.setdefault("source_hash", source_hash(table[key], folder))


def _folder() -> Any:
    return resources.files("study.protocol")
