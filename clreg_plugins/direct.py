"""Plugins that version 0.1 pickled, whose pickles name this module."""

import inspect
from typing import Any

OBSOLETE = ("gradient_path", "_direct", "_late_scale", "_late_products", "_loss_not_finite", "_origin", "_origin_index")
OBSOLETE += ("_parts_seen", "_probe", "_adds_up", "_mark", "_versions")


class DirectGradient:
    """An attribute of every plugin of version 0.1."""


def upgraded(kind: type, state: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a plugin, made from those of version 0.1."""
    options = {name: state[name] for name in inspect.signature(kind).parameters if name in state}
    plugin = kind(**options, **vars(state.get("reading", DirectGradient())))
    learned = {
        "plugin": kind.__name__,
        "lambda_folded_in": isinstance(state["reg_lambda"], tuple),
        "penalty": state["penalty"].state_dict(),
        "origin_index": state["_origin_index"],
        "parts_seen": state["_parts_seen"],
    }
    plugin.load_state_dict(learned | ({"path_integral": state["_omega"]} if "_omega" in state else {}))
    return {name: value for name, value in state.items() if name not in OBSOLETE} | vars(plugin)
