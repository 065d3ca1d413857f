"""Everything that can be reached from a model, and the process's own state, as one comparable description."""

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Description = dict[str, Any]


class Identity:
    """One object, held so that its number is not given to another."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.thing is other.thing

    __hash__ = None


def process_state() -> Description:
    """Random states, grad mode, autocast, defaults, backends."""
    return {
        "torch's generator": torch.get_rng_state().tolist(),
        "numpy's generator": [np.random.get_state()[1].tolist(), np.random.get_state()[2]],
        "Python's generator": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": (
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
        ),
        "default type": torch.get_default_dtype(),
        "default device": str(torch.get_default_device()),
        "cuDNN": torch.backends.cudnn.enabled,
        "fast path of attention": torch.backends.mha.get_fastpath_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "threads": torch.get_num_threads(),
        "linear": nn.functional.linear,
        "multithreading of autograd": torch.autograd.is_multithreading_enabled()
        if hasattr(torch.autograd, "is_multithreading_enabled")
        else None,
    }


def state_of(thing: Any) -> Description:
    """By path: values, types and identities of all that ``thing`` reaches by attributes, entries and closures."""
    found: Description = {}
    _walk(thing, "", found, {})
    return found


def _walk(thing: Any, path: str, found: Description, seen: dict[int, str]) -> None:
    if id(thing) in seen and not isinstance(thing, (int, float, str, bool, type(None))):
        found[path] = f"the same as {seen[id(thing)]}"
        return
    if isinstance(thing, Tensor):
        seen[id(thing)] = path
        values = "functorch" if torch._C._functorch.is_functorch_wrapped_tensor(thing) else thing.detach().clone()
        found[path] = (Identity(thing), type(thing), thing.requires_grad, thing.grad_fn is None, values)
        if thing.is_leaf and thing.grad is not None:
            _walk(thing.grad, f"{path}.grad", found, seen)
        if vars(thing):
            _walk(vars(thing), f"{path}.__dict__", found, seen)
        if thing.is_leaf and thing._backward_hooks:
            found[f"{path} hooks"] = list(thing._backward_hooks.values())
        return
    if isinstance(thing, np.ndarray):
        found[path] = (Identity(thing), thing.tolist())
    elif isinstance(thing, torch.Generator):
        found[path] = (Identity(thing), thing.get_state().tolist())
    elif isinstance(thing, np.random.Generator):
        found[path] = (Identity(thing), str(thing.bit_generator.state))
    elif isinstance(thing, random.Random):
        found[path] = (Identity(thing), thing.getstate())
    elif isinstance(thing, (set, frozenset)):
        found[path] = (Identity(thing), set(thing))
    elif isinstance(thing, Mapping):
        seen[id(thing)] = path
        found[path] = (Identity(thing), type(thing), [str(key) for key in thing])
        for key, value in thing.items():
            _walk(value, f"{path}[{key!r}]", found, seen)
    elif isinstance(thing, (list, tuple, deque)):
        seen[id(thing)] = path
        found[path] = (None if isinstance(thing, tuple) else Identity(thing), type(thing), len(thing))
        for number, value in enumerate(thing):
            _walk(value, f"{path}[{number}]", found, seen)
    elif isinstance(thing, MethodType):
        _walk(thing.__self__, f"{path}.__self__", found, seen)
    elif isinstance(thing, FunctionType):
        seen[id(thing)] = path
        for number, cell in enumerate(thing.__closure__ or ()):
            _walk(cell.cell_contents, f"{path} closure {number}", found, seen)
    elif is_dataclass(thing) and not isinstance(thing, type):
        seen[id(thing)] = path
        for field in fields(thing):
            _walk(getattr(thing, field.name), f"{path}.{field.name}", found, seen)
    elif isinstance(thing, (nn.Module, SimpleNamespace)) or type(thing).__module__.startswith("tests."):
        seen[id(thing)] = path
        found[path] = (Identity(thing), type(thing))
        if hasattr(thing, "__dict__"):
            _walk(vars(thing), path, found, seen)
    else:
        found[path] = thing if isinstance(thing, (int, float, str, bool, type(None))) else type(thing)


def differences(before: Description, after: Description) -> list[str]:
    """What changed, came or went."""
    gone = [f"{path} is gone" for path in before if path not in after]
    new = [f"{path} is new" for path in after if path not in before]
    return gone + new + [f"{path} changed" for path in before if path in after and not _same(before[path], after[path])]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b
