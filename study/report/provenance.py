"""How a protocol relates to the packaged one, and what was changed."""

from functools import cache
from importlib import resources
from typing import Any

import tomli_w

from study.protocol.load import load_protocol, protocol_names
from study.protocol.schema import Protocol, Published
from study.protocol.settings import Scenario
from study.report.number_formats import enumeration, strength
from study.report.setting_differences import differing_leaves, list_differences

DECIDING = {"benchmark", "model", "training", "methods"}
"""What a λ is chosen for."""


@cache
def _shipped() -> dict[str, Protocol]:
    return {name: load_protocol(name) for name in protocol_names()}


def is_packaged(name: str, protocol: Protocol) -> bool:
    """Whether the protocol equals the packaged one of that name."""
    return _shipped().get(name) == protocol


def packaged_name(protocol: Protocol) -> str | None:
    """The name of the packaged protocol that equals this one; None if there is none."""
    return next((name for name, shipped in _shipped().items() if shipped == protocol), None)


def protocol_text(name: str, protocol: Protocol) -> str:
    """The protocol as TOML: the packaged file with its comments, or else all its values."""
    if not is_packaged(name, protocol):
        return tomli_w.dumps(protocol.model_dump(exclude_none=True, mode="json"))
    return (resources.files("study.protocol") / f"{name}.toml").read_text(encoding="utf-8")


def with_true_source(name: str, protocol: Protocol) -> Protocol:
    """The protocol with a ``strength_source`` that holds for it, if values were replaced, as by ``--set``.

    A λ given by hand was not chosen as the packaged protocol says, and a λ that stayed was chosen for the packaged
    settings. A protocol with a source of its own, or with λ from the search, stays as it is.

    Args:
        name: the protocol's; if it is not a packaged one, its title is looked up.
        protocol: as used.
    """
    shipped = _origin(name, protocol)
    if shipped is None or protocol.strength_source != shipped.strength_source:
        return protocol
    given, kept = [], False
    for method, by_scenario in protocol.strength.items():
        for scenario in protocol.scenarios:
            if by_scenario[scenario] == "tuned":
                continue
            if by_scenario[scenario] == shipped.strength.get(method, {}).get(scenario):
                kept = True
            else:
                given.append(f"{method}, {scenario} ({strength(by_scenario[scenario])})")
    differences = _differences(shipped, protocol, DECIDING) if kept else ""
    if not given and not differences:
        return protocol
    tuned = any("tuned" in by_scenario.values() for by_scenario in protocol.strength.values())
    other = f", but for other settings: {differences}" if differences else ""
    sources = [protocol.strength_source.strip().rstrip(".") + other] if kept or tuned else []
    if given:
        sources.append(f"λ given by hand: {enumeration(given)}")
    return protocol.model_copy(update={"strength_source": "; ".join(sources)})


def changed_settings(name: str, protocol: Protocol) -> str:
    """How the protocol differs from the packaged one; empty if it does not, or there is none."""
    shipped = _origin(name, protocol)
    return "" if shipped is None else _differences(shipped, protocol, {*DECIDING, "strength", "tuning"})


def _origin(name: str, protocol: Protocol) -> Protocol | None:
    return _shipped().get(name) or next((each for each in _shipped().values() if each.title == protocol.title), None)


def changes(protocol: Protocol, table: Published, scenario: Scenario, method: str) -> str:
    """How the settings of a method's runs differ from those that a published number belongs to.

    A number belongs to the settings of the packaged protocols that contain it, with the same source, scenario and
    method; the nearest counts. Empty if nothing differs or no packaged protocol has the number.
    """
    owners = [each for each in _shipped().values() if _has_number(each, table, scenario, method)]
    return min((_changes(owner, protocol, scenario, method) for owner in owners), key=len, default="")


def _has_number(shipped: Protocol, table: Published, scenario: Scenario, method: str) -> bool:
    mean = table.results[method][scenario].mean
    numbers = (
        other.results.get(method, {}).get(scenario) for other in shipped.published if other.source == table.source
    )
    return any(number is not None and number.mean == mean for number in numbers)


def _changes(shipped: Protocol, protocol: Protocol, scenario: Scenario, method: str) -> str:
    trees = []
    for each in (shipped, protocol):
        tree = each.model_dump(mode="json", include={"benchmark", "model", "training"})
        tree[method] = each.methods[method].model_dump(mode="json")
        tree["λ"] = each.strength_of(method, scenario)
        trees.append(tree)
    return _here(trees)


def _differences(shipped: Protocol, protocol: Protocol, tables: set[str]) -> str:
    return _here([each.model_dump(mode="json", include=tables) for each in (shipped, protocol)])


def _here(trees: list[dict[str, Any]]) -> str:
    return list_differences(differing_leaves(trees), "here ")
