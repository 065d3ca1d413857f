"""Plugins that version 0.1 pickled, whose pickles name this module."""

from typing import Any

from clreg_plugins.flat import FlatTensors
from clreg_plugins.importance.options import READING_DEFAULTS
from clreg_plugins.loss_check import LossCheck
from clreg_plugins.online_streams import OnlineStream
from clreg_plugins.outside_changes import OutsideChanges
from clreg_plugins.task_gradient import TaskGradient

OBSOLETE = ("gradient_path", "_direct", "_late_scale", "_late_products", "_loss_not_finite", "_origin", "_origin_index")
OBSOLETE += ("_model_id", "_parts_seen", "_probe", "_adds_up", "_mark", "_versions", "_optimised")


class DirectGradient:
    """An attribute of every plugin of version 0.1."""


def upgraded(state: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a plugin, from those of version 0.1."""
    new = {"_stateless": {}, "_bound_ids": (), "_warned_missing": set(), "_work_space": None, "_late_probe": None}
    new["_loss_check"] = LossCheck()
    new["_stream"] = OnlineStream()
    new["_stream"].resume(state["_origin_index"], state["_parts_seen"])
    if "_omega" in state:
        new |= {
            "_omega": FlatTensors.of(state["_omega"]),
            "_task_gradient": TaskGradient(),
            "_outside": OutsideChanges(),
        }
    if "fisher" in state:
        new["class_dim"] = 1
    if "reading" in state:
        state["reading"].__dict__ = {"options": {**READING_DEFAULTS, **vars(state["reading"])}}
    return {name: value for name, value in state.items() if name not in OBSOLETE} | new
