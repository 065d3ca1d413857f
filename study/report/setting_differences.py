"""In which settings runs differ."""

from collections.abc import Sequence
from typing import Any

from study.report.number_formats import option
from study.run.specification import NAMES, Run

OF_ONE_KIND = (*NAMES, "seed")
"""What may differ between runs of one kind."""


def differing(runs: Sequence[Run], ignored: Sequence[str] = OF_ONE_KIND) -> dict[str, list[Any]]:
    """Settings that differ between runs, by dotted name as in a protocol, with the value of each run."""
    found = differing_leaves([run.model_dump(mode="json", exclude=set(ignored)) for run in runs])
    if "method.kind" in found:  # other kinds have other options
        return {key: values for key, values in found.items() if key == "method.kind" or not key.startswith("method.")}
    return found


def differing_leaves(trees: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Leaves of nested dictionaries that differ, by dotted name; None where one lacks it."""
    leaves = [_leaves(tree) for tree in trees]
    values = {key: [each.get(key) for each in leaves] for each in leaves for key in each}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in tree.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


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
        *first, final = dict.fromkeys(map(option, values))
        name = f"the code of {key.removesuffix('.source_hash')}" if key.endswith(".source_hash") else key
        listed.append(f"{name} ({', '.join([*first, f'{last}{final}'])})")
    return "; ".join(listed)
