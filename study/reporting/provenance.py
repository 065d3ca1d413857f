"""The protocol as it was used: whether it is one of the package's, and what ``--set`` has made of it."""

from functools import cache
from importlib import resources
from typing import Any

from study.protocol import Protocol, load_protocol, protocol_names
from study.reporting.differences import differing_leaves, shown
from study.reporting.numbers import enumeration, strength
from study.reporting.toml import to_toml
from study.settings import Scenario

DECIDING = {"benchmark", "model", "training", "methods"}
"""What a λ is chosen for."""


@cache
def _shipped(name: str) -> Protocol | None:
    """The protocol of that name which comes with the package, if there is one."""
    return load_protocol(name) if name in protocol_names() else None


def is_packaged(name: str, protocol: Protocol) -> bool:
    """Whether the protocol is, unchanged, the one of that name which comes with the package."""
    return _shipped(name) == protocol


def packaged_name(protocol: Protocol) -> str | None:
    """The name of the protocol that comes with the package and says the same; None if none does."""
    return next((name for name in protocol_names() if is_packaged(name, protocol)), None)


def protocol_text(name: str, protocol: Protocol) -> str:
    """The protocol as a file: the package's own where it is that, comments included, and otherwise all it says."""
    if not is_packaged(name, protocol):
        return to_toml(protocol)
    return (resources.files("study") / "protocols" / f"{name}.toml").read_text(encoding="utf-8")


def with_true_source(name: str, protocol: Protocol) -> Protocol:
    """The protocol, with a ``strength_source`` that claims nothing of what ``--set`` has replaced.

    A λ that was given by hand was not chosen as the protocol that comes with the package says; and one that stayed was
    not chosen for settings that did not. A protocol that says for itself how its λ was chosen is taken at its word, and
    so is one that leaves λ to the search, which is done with the same settings.

    Args:
        name: the protocol's; nothing is known of one that does not come with the package.
        protocol: as it was used.
    """
    shipped = _shipped(name)
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
    differences = _other_settings(shipped, protocol) if kept else ""
    if not given and not differences:
        return protocol
    tuned = any("tuned" in by_scenario.values() for by_scenario in protocol.strength.values())
    sources = [protocol.strength_source.strip().rstrip(".") + differences] if kept or tuned else []
    if given:
        sources.append(f"λ as given with --set: {enumeration(given)}")
    return protocol.model_copy(update={"strength_source": "; ".join(sources)})


def changes(name: str, protocol: Protocol, scenario: Scenario, method: str) -> str:
    """In what the settings of a method's runs differ from those of the protocol as it comes with the package.

    Empty if in nothing, or if the protocol does not come with the package and is its own measure.
    """
    shipped = _shipped(name)
    if shipped is None:
        return ""
    trees = []
    for each in (shipped, protocol):
        tree = each.model_dump(mode="json", include={"benchmark", "model", "training"})
        if method in each.methods and scenario in each.scenarios:
            tree[method] = each.methods[method].model_dump(mode="json")
            tree["λ"] = each.strength_of(method, scenario)
        trees.append(tree)
    return _in_words(trees)


def _other_settings(shipped: Protocol, protocol: Protocol) -> str:
    """For which settings the λs that stayed were chosen, if not for these."""
    words = _in_words([each.model_dump(mode="json", include=DECIDING) for each in (shipped, protocol)])
    return f", but for other settings ({words})" if words else ""


def _in_words(trees: list[dict[str, Any]]) -> str:
    differences = differing_leaves(trees)
    return "; ".join(f"{key} {shown(before)}, here {shown(now)}" for key, (before, now) in differences.items())
