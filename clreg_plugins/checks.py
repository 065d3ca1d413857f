"""Argument checks whose one message names the value, the argument and what is allowed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

FLOAT32_MAX = torch.finfo(torch.float32).max
"""A factor beyond it makes infinities of what it is multiplied with."""

INT64_MAX = 2**63 - 1


def shown(value: object) -> str:
    """A value for a message: in one line of bounded length, whatever it is."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an int of too many digits, or a class of the caller's
        text = f"of type {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}…"


def listed(names: Iterable[str]) -> str:
    """The first five names, for a message, and how many more there are."""
    shown = list(names)
    return ", ".join(map(repr, shown[:5])) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


def one_of(name: str, value: object, allowed: Sequence[str], *, none: str | None = None) -> None:
    """Raise ValueError unless ``value`` is among ``allowed``, or None where ``none`` says its meaning."""
    if value is None and none is not None:
        return
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} is {shown(value)}; allowed: {', '.join(allowed)}{_or_none(none)}")


def whole(name: str, value: object, minimum: int, maximum: int = INT64_MAX, *, none: str | None = None) -> Any:
    """``value`` if it is an int in [minimum, maximum], or None if ``none`` says its meaning; ValueError otherwise."""
    if value is None and none is not None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        bounds = f"from {minimum} to {maximum}" if maximum < INT64_MAX else f">= {minimum} and < 2**63"
        raise ValueError(f"{name} is {shown(value)}; allowed: a whole number {bounds}{_or_none(none)}")
    return value


def boolean(name: str, value: object) -> bool:
    """``value`` if it is True or False; ValueError otherwise."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {shown(value)}; allowed: True, False")
    return value


def within(name: str, value: object, low: float = -math.inf, high: float = math.inf, *, also: str = "") -> float:
    """``value`` as a float if it is a finite number in [low, high]; ValueError otherwise.

    Without an upper bound a number must still fit into float32, the type of the tensors that it goes into.

    Args:
        name: of the argument.
        value: of any type.
        low: the least that is allowed.
        high: the most that is allowed.
        also: what the caller allows besides, for the message.
    """
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # an int beyond any float
        number = math.inf
    if not (math.isfinite(number) and abs(number) <= FLOAT32_MAX and low <= number <= high):
        bounds = "" if low == -math.inf else f" >= {low:g}"
        bounds += " that float32 can hold" if high == math.inf else f" and <= {high:g}"
        raise ValueError(f"{name} is {shown(value)}; allowed: a finite number{bounds}{also}")
    return number


def strength(reg_lambda: object) -> float:
    """λ of a method that has one strength for all experiences; ValueError unless it is a number >= 0."""
    if isinstance(reg_lambda, Sequence):
        raise ValueError(f"reg_lambda is {shown(reg_lambda)}; allowed: one number >= 0 (EWCPlugin takes a sequence)")
    return within("reg_lambda", reg_lambda, 0)


def strengths(reg_lambda: object) -> float | tuple[float, ...]:
    """λ, or one λ_t for each experience; ValueError unless they are numbers >= 0."""
    if isinstance(reg_lambda, Sequence) and not isinstance(reg_lambda, (str, bytes)):
        if not reg_lambda:
            raise ValueError("reg_lambda is empty; allowed: a number >= 0, or one for each experience")
        return tuple(within(f"reg_lambda[{t}]", value, 0) for t, value in enumerate(reg_lambda))
    return within("reg_lambda", reg_lambda, 0, also=", or a sequence with one for each experience")


def function(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` can be called, or is None."""
    if value is not None and not callable(value):
        raise ValueError(f"{name} is {shown(value)}; allowed: a function, or None (the default)")


def instance(name: str, value: object, kind: type, allowed: str) -> None:
    """Raise TypeError unless ``value`` is an instance of ``kind``, which the message calls ``allowed``."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {shown(value)}; allowed: {allowed}")


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """``value`` if it is a mapping whose keys are strings; ValueError otherwise."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {shown(value)}; allowed: a mapping by name")
    if unnamed := [key for key in value if not isinstance(key, str)]:
        raise ValueError(f"{name} has the key {shown(unnamed[0])}; allowed: names, which are strings")
    return value


def dense(name: str, value: Any) -> Tensor:
    """``value`` without its graph, if it is a dense tensor of real floating-point numbers; ValueError otherwise.

    Of a sparse or nested tensor, and of one on "meta", the numbers cannot be read entry by entry.
    """
    fits = isinstance(value, Tensor) and value.is_floating_point() and value.layout == torch.strided
    if not fits or value.is_nested or value.device.type == "meta":
        kind = (
            f"a {value.layout} tensor of {value.dtype} on {value.device}" if isinstance(value, Tensor) else shown(value)
        )
        raise ValueError(f"{name} is {kind}; allowed: a dense tensor of floating-point numbers")
    refuse_sharded(name, value)
    return value.detach()


def refuse_sharded(name: str, tensor: Tensor) -> None:
    """Raise ValueError if a tensor is a DTensor, of which this process holds a shard."""
    if hasattr(tensor, "device_mesh"):
        raise ValueError(
            f"{name} is a DTensor, sharded over processes as FSDP2 does; allowed: whole tensors, as with "
            "DistributedDataParallel"
        )


def _or_none(meaning: str | None) -> str:
    return "" if meaning is None else f", or None ({meaning})"
