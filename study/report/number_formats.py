"""Formats of numbers: digits, units and signs, for every output.

Example:
    >>> points(93.456), points(-0.001), signed_points(1.0), signed_points(-1.0), signed_points(0.0)
    ('93.46', '0.00', '+1.00', '−1.00', '0.00')
    >>> with_interval(93.0, 92.104, 94.3), with_interval(93.0, float("nan"), float("nan"))
    ('93.00 [92.10, 94.30]', '93.00')
    >>> with_interval(20.0, -107.06, 147.06)
    '20.00 [−100.00, 100.00]'
    >>> p_value(0.0312), p_value(0.0002), p_equals(0.0312), p_equals(0.0002)
    ('0.031', '<0.001', 'p = 0.031', 'p < 0.001')
    >>> [option(value) for value in (None, 100.0, 1e6, 0.01, 2.5e-4, True, "exact")]
    ['–', '100', '1e6', '0.01', '2.5e-4', 'true', 'exact']
    >>> two_digits(0.01234), two_digits(123456.0)
    ('0.012', '1.2e5')
    >>> combination(["strength", "gamma"], [100.0, 0.5])
    '100, gamma = 0.5'
    >>> count(1, "seed"), count(3, "seed"), seeds_of(4, 10), seeds_of(12, 10)
    ('1 seed', '3 seeds', '4 of 10', '12')
    >>> enumeration(["a"]), enumeration(["a", "b", "c"])
    ('a', 'a, b and c')
    >>> [Unit("s", 1.0).text(value) for value in (1234.5, 12.34, 1.234, 0.0001, 0.0)]
    ['1234', '12.3', '1.23', '<0.01', '0']
    >>> unit_for([0.5, 90.0, None], SECONDS).name, unit_for([], BYTES).name, quantity(1536.0, BYTES)
    ('min', 'B', '1.50 KiB')
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

NOTHING = "–"
"""Shown where there is no number."""


def points(value: float, decimals: int = 2) -> str:
    """Percent or percentage points, with the two decimals that published tables have."""
    text = f"{value:.{decimals}f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def signed_points(value: float) -> str:
    text = points(value)
    return text if value < 0 or text == points(0.0) else f"+{text}"


def with_interval(value: float, low: float, high: float, text: Callable[[float], str] = points) -> str:
    """A number in percent or percentage points with its interval, within ±100; a single run has none."""
    low, high = max(low, -100.0), min(high, 100.0)
    return text(value) if math.isnan(low) else f"{text(value)} [{points(low)}, {points(high)}]"


def p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def p_equals(p: float) -> str:
    """A p-value within a sentence."""
    return f"p < {p_value(p)[1:]}" if p < 0.001 else f"p = {p_value(p)}"


def strength(value: float | None) -> str:
    """λ, as short as possible."""
    if value is None:
        return NOTHING
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:g}"
    digits, _, exponent = f"{value:.5e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def two_digits(value: float) -> str:
    """Any number with two significant digits, as short as possible."""
    return strength(float(f"{value:.2g}"))


def option(value: Any) -> str:
    """An option's value as in a protocol file, or a dash."""
    if value is None or isinstance(value, float):
        return strength(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def combination(options: Sequence[str], values: Sequence[Any]) -> str:
    """Values that a search tried together: λ, and the other options by name."""
    others = zip(options[1:], values[1:], strict=True)
    return strength(values[0]) + "".join(f", {name} = {option(value)}" for name, value in others)


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def seeds_of(finished: int, asked: int) -> str:
    """The number of seeds, and how many the protocol asks for if that is more."""
    return f"{finished} of {asked}" if finished < asked else str(finished)


def enumeration(names: Iterable[str]) -> str:
    """Names in a sentence."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


@dataclass(frozen=True)
class Unit:
    """A unit of time or memory: its name, and its size in seconds or bytes."""

    name: str
    size: float

    def text(self, value: float) -> str:
        """A quantity in this unit with three significant digits."""
        number = value / self.size
        if 0 < number < 0.005:
            return "<0.01"
        return f"{number:.{0 if number >= 99.95 else 1 if number >= 9.995 else 2}f}" if number else "0"


SECONDS = (Unit("ms", 1e-3), Unit("s", 1.0), Unit("min", 60.0), Unit("h", 3600.0))
BYTES = (Unit("B", 1.0), Unit("KiB", 2.0**10), Unit("MiB", 2.0**20), Unit("GiB", 2.0**30))


def unit_for(values: Iterable[float | None], units: tuple[Unit, ...]) -> Unit:
    """The unit of a column: the largest that does not exceed its largest value."""
    largest = max((value for value in values if value is not None), default=0.0)
    return next((unit for unit in reversed(units) if unit.size <= largest), units[0])


def quantity(value: float, units: tuple[Unit, ...]) -> str:
    unit = unit_for([value], units)
    return f"{unit.text(value)} {unit.name}"
