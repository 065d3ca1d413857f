"""Timing several functions in turns."""

import random
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

Clock = Callable[[], float]
Name = TypeVar("Name", bound=Hashable)

TURN = 0.04
"""Seconds that a turn takes at least: several steps of a small model."""

FEWEST = 5
"""Rounds in any case."""


@dataclass(frozen=True)
class Turn:
    """What is timed in one turn; its time is divided by ``amount``: 5 for five steps, 0.1 for a tenth of the data."""

    work: Callable[[], object]
    amount: float = 1.0


def clock_of(device: torch.device) -> Clock:
    """Seconds, read after the device has finished all of its work."""
    if device.type != "cuda":
        return time.perf_counter

    def read() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def interleave(
    turns: Mapping[Name, Turn], rounds: int, clock: Clock, patience: float = float("inf")
) -> dict[Name, list[float]]:
    """Seconds per unit of each turn, one entry per round.

    Each has one turn in every round, so that a machine that slows down does so for all, in an order drawn for each
    round from a fixed seed. After ``patience`` seconds no round begins, but for the first five.
    """
    order, shuffle = list(turns), random.Random(0).shuffle
    seconds: dict[Name, list[float]] = {name: [] for name in turns}
    end = clock() + patience
    for index in range(rounds):
        if index >= FEWEST and clock() > end:
            break
        shuffle(order)
        for name in order:
            start = clock()
            turns[name].work()
            seconds[name].append((clock() - start) / turns[name].amount)
    return seconds


def seconds_of(work: Callable[[], object], clock: Clock) -> float:
    return interleave({"": Turn(work)}, 1, clock)[""][0]


def long_turn(work: Callable[[], object], clock: Clock) -> Turn:
    """As many calls as take :data:`TURN` seconds, timed per call, after one to warm up."""
    work()
    calls = 1 + int(TURN / max(1e-6, seconds_of(work, clock)))

    def together() -> None:
        for _ in range(calls):
            work()

    return Turn(together, calls)


def over(seconds: Sequence[float], reference: Sequence[float]) -> tuple[float, ...]:
    """Ratios, round by round.

    Example:
        >>> over([2.0, 9.0], [1.0, 3.0])
        (2.0, 3.0)
    """
    return tuple(a / b for a, b in zip(seconds, reference, strict=True))
