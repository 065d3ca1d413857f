"""pydantic errors as messages: key, value, and what is allowed."""

from typing import Any

from pydantic import ValidationError

from study.protocol.table import suggestion

YOUR_OWN = "your own as package.module:Name or ./file.py:Name"
EXPECTED = ": input should be "  # how pydantic's errors of a wrong type or value begin


def validation_messages(error: ValidationError) -> list[str]:
    """pydantic's errors, a line each: ``key = value: what is wrong and what is allowed``."""
    alternatives: dict[str, list[str]] = {}  # where a value may be of several types, pydantic names each by itself
    for item in error.errors(include_url=False):
        subject, problem = _message(item)
        known = alternatives.setdefault(subject, [])
        if problem not in known:
            known.append(problem)
    lines = []
    for subject, (first, *others) in alternatives.items():
        separated = [other for other in others if not other.startswith(EXPECTED)]
        merged = [first, *(other.removeprefix(EXPECTED) for other in others if other.startswith(EXPECTED))]
        lines += [f"{subject}{problem}" for problem in (", or ".join(merged), *separated)]
    return lines


def _message(error: Any) -> tuple[str, str]:
    """The subject of one pydantic error, and what is wrong and what is allowed."""
    # pydantic inserts the type or literal of a union that it tried
    location = [part for part in error["loc"] if not any(mark in str(part) for mark in "[({")]
    if location[:1] == ["methods"] and "(built-in)" in error["loc"] and len(location) > 2:
        del location[2]  # and the kind of the method
    if location[:1] in (["strength"], ["benchmark"]) and len(location) > 2:
        location = [part for part in location if part not in ("float", "constrained-float")]
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        location.append("kind")
    key = ".".join(map(str, location))
    if error["type"] in ("missing", "union_tag_not_found"):
        return key, " is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return (f"[{key}]: ", message) if key else ("", message)
    if error["type"] == "union_tag_invalid":
        tag, allowed = error["ctx"]["tag"], [each.strip("'") for each in error["ctx"]["expected_tags"].split(", ")]
        return f"{key} = {tag!r}", f"{suggestion(tag, allowed)}, or {YOUR_OWN}"
    if location[:1] == ["strength"] and error["type"] == "dict_type":
        return f"{key} = {error['input']!r}", f": allowed: a λ for a scenario, as in {key}.task = {error['input']!r}"
    if error["type"] == "string_pattern_mismatch" and "(own)" in error["loc"]:
        message = f"allowed: {YOUR_OWN}"
    elif error["type"] == "literal_error" and location[-1] == "name":
        message += f", or {YOUR_OWN}"
    return f"{key} = {error['input']!r}", f": {message[0].lower()}{message[1:]}"
