"""``--set KEY=VALUE``: replaces or removes a key of a protocol's data before it is validated."""

import tomllib
from typing import Any

from study.errors import ProtocolError
from study.protocol.table import suggestion


def apply_override(override: str, data: dict[str, Any]) -> None:
    """Set one key of a protocol's ``data`` in place, or remove it.

    Args:
        override: ``KEY=VALUE`` with a TOML key and a TOML value, or a string without its quotes; ``KEY=`` removes.
        data: the file's content.

    Raises:
        ProtocolError: the override has another form, names a key below a value, or removes a missing key.
    """
    if len(override.splitlines()) > 1:
        raise ProtocolError(f"--set {override!r} has several lines; allowed: one KEY=VALUE, and --set once for each")
    key, _, value = override.partition("=")
    value = value.strip()
    path = _path(key, override)
    for depth, part in enumerate(path):
        so_far = ".".join(path[: depth + 1])
        if not value and part not in data:
            raise ProtocolError(f"--set {override}: there is no {so_far} to remove{suggestion(part, data)}")
        if depth < len(path) - 1:
            data = data.setdefault(part, {})
            if not isinstance(data, dict):
                raise ProtocolError(f"--set {override}: {so_far} is not a table")
    if not value:
        del data[path[-1]]
        return
    try:
        data[path[-1]] = tomllib.loads(f"value = {value}")["value"]
    except RecursionError:
        raise ProtocolError(f"--set {override[:40]}…: it is nested too deeply") from None
    except tomllib.TOMLDecodeError:
        data[path[-1]] = value  # a string whose quotes the shell removed
    except ValueError as error:  # a number of too many digits
        raise ProtocolError(f"--set {override[:40]}…: {error}") from None


def _path(key: str, override: str) -> list[str]:
    """The parts of a TOML key: three for ``strength."si-c0.1".domain``."""
    path: list[str] = []
    try:
        parts = tomllib.loads(f"{key} = 0") if "=" in override else {}
    except tomllib.TOMLDecodeError:
        parts = {}
    while isinstance(parts, dict) and len(parts) == 1:
        ((part, parts),) = parts.items()
        path.append(part)
    if not path:
        raise ProtocolError(f"--set {override}: allowed is KEY=VALUE, as in --set training.epochs=3")
    return path
