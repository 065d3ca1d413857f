"""In which settings runs differ."""

from collections.abc import Iterator, Sequence
from typing import Any

from study.report.number_formats import NOTHING, option
from study.run.specification import Run

NAMES = ("protocol", "label", "seed")
"""What may differ between runs of one kind."""


def differing(runs: Sequence[Run], ignored: Sequence[str] = NAMES) -> dict[str, list[Any]]:
    """Settings that differ between runs, by dotted name as in a protocol, with the value of each run."""
    found = differing_leaves([run.model_dump(mode="json", exclude=set(ignored)) for run in runs])
    if "method.kind" in found:  # other kinds have other options
        return {key: values for key, values in found.items() if key == "method.kind" or not key.startswith("method.")}
    return found


def differing_leaves(trees: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Leaves of nested dictionaries that differ, by dotted name; None where one lacks it."""
    return dict(_differing(trees, ""))


def list_differences(differences: dict[str, list[Any]], last: str = "") -> str:
    """Each setting with its values, each value once; ``last`` is said before the last value.

    Example:
        >>> list_differences({"strength": [1.0, 1e6, 1.0], "method.fisher": ["exact", None, "exact"]})
        'strength (1, 1e6); method.fisher (exact, –)'
        >>> list_differences({"strength": [1.0, 2.0]}, "here ")
        'strength (1, here 2)'
    """
    listed = []
    for key, values in differences.items():
        *first, final = dict.fromkeys(map(_shown, values))
        listed.append(f"{key} ({', '.join([*first, f'{last}{final}'])})")
    return "; ".join(listed)


def _shown(value: Any) -> str:
    """A setting's value as in a protocol file, or a dash."""
    return NOTHING if value is None else option(value)


def _differing(trees: Sequence[dict[str, Any]], prefix: str) -> Iterator[tuple[str, list[Any]]]:
    for key in dict.fromkeys(key for tree in trees for key in tree):
        values = [tree.get(key) for tree in trees]
        if all(isinstance(value, dict) for value in values):
            yield from _differing(values, f"{prefix}{key}.")
        elif any(value != values[0] for value in values):
            yield f"{prefix}{key}", values
