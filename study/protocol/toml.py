"""A protocol as the text of a protocol file."""

import json
import math
from collections.abc import Mapping
from typing import Any

from study.protocol.schema import Protocol


def to_toml(protocol: Protocol) -> str:
    """All that a protocol says, such that :func:`study.protocol.parse_protocol` gives the same protocol."""
    data = protocol.model_dump(exclude_none=True, mode="json")
    lines = [f"{key} = {_value(value)}" for key, value in data.items() if not _is_table(value)]
    for key, value in data.items():
        if isinstance(value, dict):
            lines += ["", f"[{_key(key)}]", *(f"{_key(inner)} = {_value(v)}" for inner, v in value.items())]
        elif _is_table(value):
            for table in value:
                lines += ["", f"[[{_key(key)}]]", *(f"{_key(inner)} = {_value(v)}" for inner, v in table.items())]
    return "\n".join(lines) + "\n"


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))


def _key(key: str) -> str:
    return key if key.isascii() and key.replace("_", "").replace("-", "").isalnum() else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(v)}" for key, v in value.items()) + " }" if value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # a TOML basic string is a JSON one
