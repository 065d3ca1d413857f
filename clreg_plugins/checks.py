"""Argument checks whose one message names the value, the argument and what is allowed."""

import math
from collections.abc import Sequence
from numbers import Real

FLOAT32_MAX = 3.4028234663852886e38
"""The largest finite float32: a factor beyond it makes infinities of what it is multiplied with."""

INT64_MAX = 2**63 - 1


def one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise ValueError unless ``value`` is among ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")


def whole(name: str, value: object, minimum: int, maximum: int = INT64_MAX, *, none: str | None = None) -> None:
    """Raise ValueError unless ``value`` is an int in [minimum, maximum], or None where ``none`` says its meaning."""
    if value is None and none is not None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        allowed = (
            f"a whole number from {minimum} to {maximum}" if maximum < INT64_MAX else f"a whole number >= {minimum}"
        )
        raise ValueError(f"{name} is {value!r}; allowed: {allowed}" + (f", or None ({none})" if none else ""))


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
    """``value`` as a float if it is a finite number in [low, high], or in (low, high]; ValueError otherwise.

    Without an upper bound a number must still fit into float32, the type of the tensors that it goes into.
    """
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # an int beyond any float
        number = math.inf
    fits = math.isfinite(number) and abs(number) <= FLOAT32_MAX
    if not (fits and low <= number <= high and not (open_low and number == low)):
        bounds = f"> {low:g}" if open_low else f">= {low:g}"
        bounds += " that float32 can hold" if high == math.inf else f" and <= {high:g}"
        raise ValueError(f"{name} is {value!r}; allowed: a finite number {bounds}")
    return number


def strength(reg_lambda: object) -> float:
    """λ of a method that has one strength for all experiences; ValueError unless it is a number >= 0."""
    if isinstance(reg_lambda, Sequence):
        raise ValueError(f"reg_lambda is {reg_lambda!r}; allowed: one number >= 0 (EWCPlugin takes a sequence)")
    return within("reg_lambda", reg_lambda, 0)


def strengths(reg_lambda: object) -> float | tuple[float, ...]:
    """λ, or one λ_t for each experience; ValueError unless they are numbers >= 0."""
    if isinstance(reg_lambda, Sequence) and not isinstance(reg_lambda, (str, bytes)):
        if not reg_lambda:
            raise ValueError("reg_lambda is empty; allowed: a number >= 0, or one for each experience")
        return tuple(within(f"reg_lambda[{t}]", value, 0) for t, value in enumerate(reg_lambda))
    return within("reg_lambda", reg_lambda, 0)
