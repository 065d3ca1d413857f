"""In which mode a model is measured: eval mode, as the model defines it, or the nearest mode that works."""

import warnings
from collections.abc import Callable

from torch import nn

from clreg_plugins.importance.engine.forward_pass import UnusableOutput, is_out_of_memory
from clreg_plugins.importance.engine.snapshot import has_own_mode

Reached = Callable[[], set[str]]
"""Runs the model on a few samples, and returns the names of the trainable parameters that its output depends on."""


def choose_mode(model: nn.Module, reached: Reached) -> tuple[set[str], str]:
    """Put ``model`` into the mode in which its importance is measured, by its modules' own ``train`` and ``eval``.

    That is eval mode, except where the model means more by it, as a layer that merges its weights or a model that turns
    to another head does: if eval mode cuts off parameters that training mode uses, or fails, all modules that are not
    PyTorch's own then stay in training mode, and those of PyTorch's (dropout, normalisation) are in eval mode. A model
    whose ``forward`` asks for the mode is measured in eval mode, with a warning if that cuts off parameters, unless
    eval mode reaches none. What is cut off is seen on a few samples.

    Returns:
        The parameters reached in the mode chosen, and which that is: "eval" or "training".
    """
    model.eval()
    failure: Exception | None = None
    try:
        found = reached()
    except UnusableOutput:
        raise
    except Exception as error:  # such as a classifier for evaluation that has not been fitted yet
        if is_out_of_memory(error):
            raise
        found, failure = set(), error
    all_reached = found.issuperset(name for name, p in model.named_parameters() if p.requires_grad)
    own_mode = any(has_own_mode(module) for module in model.modules())
    if found and all_reached and not own_mode:
        return found, "eval"
    _only_own_modules_train(model)
    try:
        wider = reached()
    except Exception:  # what fails in training mode, such as a statistic of too few samples, is no alternative
        wider = set()
    if wider - found and (own_mode or not found):
        return wider, "training"
    if failure is not None:
        raise failure
    if wider - found:
        names = ", ".join(sorted(wider - found))
        warnings.warn(
            f"in eval mode the model's output on the first samples does not depend on {names}, in training mode it "
            "does; importance is measured in eval mode, and theirs is 0 if no other sample reaches them",
            stacklevel=2,
        )
    model.eval()
    return reached(), "eval"


def _only_own_modules_train(model: nn.Module) -> None:
    model.train()
    for module in model.modules():
        kinds = type(module).__mro__[: type(module).__mro__.index(nn.Module)]
        if any(kind.__module__.startswith("torch.nn.") for kind in kinds) and not has_own_mode(module):
            module.training = False


def put_back(model: nn.Module, modes: dict[nn.Module, bool]) -> None:
    """Put every module back into its mode, by its own methods: those that contain others first."""
    for module, training in modes.items():
        if module.training != training:
            module.train(training)
