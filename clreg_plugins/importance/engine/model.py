"""What an importance needs to know about the model."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clreg_plugins.checks import refuse_sharded

Forward = Callable[[nn.Module, Any, Tensor | None], Tensor]
"""``(model, inputs, task labels or None) -> outputs``, which have the samples along their first dimension."""


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module behind ``torch.compile``, ``DistributedDataParallel`` and ``DataParallel``."""
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    while True:
        if isinstance(model, wrappers):
            model = model.module
        elif type(model).__module__.startswith("torch._dynamo"):  # OptimizedModule, by its place: its name is private
            model = model._orig_mod
        else:
            return model


def plain_name(name: str) -> str:
    """A parameter's name without the prefix of a module within that is compiled."""
    return name.replace("_orig_mod.", "")


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The real floating-point ones of ``model.named_parameters()``, without the prefixes that wrappers add.

    Raises:
        ValueError: a parameter is complex, of a lazy module that has not seen data, or a DTensor.
    """
    found = {}
    for name, p in unwrap(model).named_parameters():
        name = plain_name(name)
        if isinstance(p, nn.parameter.UninitializedParameter) or p.is_complex():
            kind = "complex" if p.is_complex() else "not initialised: run the model on one batch first"
            raise ValueError(f"parameter {name!r} is {kind}; allowed: real parameters with a shape")
        if p.is_floating_point():
            refuse_sharded(f"parameter {name!r}", p)
            found[name] = p
    return found


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor's content lies in one block of memory: not if it is sparse, nested, meta, or wraps others."""
    if tensor.is_quantized or tensor.is_nested or tensor.layout != torch.strided or tensor.device.type == "meta":
        return False
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return False
    try:
        tensor.data_ptr()
    except RuntimeError:  # torch.func's wrappers are plain tensors by their type
        return False
    return True


def state_dtype(tensor: Tensor) -> torch.dtype:
    """The type of what is kept for a tensor: at least float32. (``torch.promote_types`` refuses float8.)"""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def names_task_labels(model: nn.Module) -> bool:
    """Whether the model's forward names an argument ``task_labels``."""
    try:
        return "task_labels" in inspect.signature(model.forward).parameters
    except (TypeError, ValueError):  # a traced model's has no signature
        return False


def default_forward(model: nn.Module, inputs: Any, task_labels: Tensor | None) -> Tensor:
    """``model(**inputs)``, ``model(*inputs)`` or ``model(inputs)``, with task labels if its forward names them."""
    labels = {"task_labels": task_labels} if task_labels is not None and names_task_labels(model) else {}
    if isinstance(inputs, Mapping):
        return logits_of(model(**inputs, **labels))
    if isinstance(inputs, (tuple, list)) and not hasattr(inputs, "batch_sizes"):  # a PackedSequence is one argument
        return logits_of(model(*inputs, **labels))
    return logits_of(model(inputs, **labels))


def logits_of(output: Any) -> Any:
    """The logits of an output that holds more, such as one of ``transformers``; any other as it is."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    return getattr(output, "logits", output)
