"""Argument checks whose one message names the value, the argument and what is allowed."""

import math
from collections.abc import Sequence
from numbers import Real


def one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise ValueError unless ``value`` is among ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")


def at_least(name: str, value: int | None, minimum: int) -> None:
    """Raise ValueError unless ``value`` is None or a whole number of at least ``minimum``."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < minimum):
        raise ValueError(f"{name} is {value!r}; allowed: a whole number of at least {minimum}")


def boolean(name: str, value: object) -> bool:
    """``value`` if it is True or False; ValueError otherwise."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; allowed: True, False")
    return value


def within(
    name: str,
    value: object,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
) -> float:
    """``value`` as a float if it is a finite number in [low, high], or in (low, high]; ValueError otherwise."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(number) and low <= number <= high and not (open_low and number == low)):
        bounds = f"> {low:g}" if open_low else f">= {low:g}"
        bounds += "" if high == math.inf else f" and <= {high:g}"
        raise ValueError(f"{name} is {value!r}; allowed: a finite number {bounds}")
    return number
