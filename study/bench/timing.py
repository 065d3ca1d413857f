"""Works that take turns, and what their times are relative to each other."""

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Clock = Callable[[], float]


@dataclass(frozen=True)
class Turn:
    """What a mode does when its turn comes.

    Attributes:
        work: to be timed.
        amount: how much of the unit that is asked about it does, so that its time is divided by it: 5 for five steps,
            0.1 for a pass over a tenth of the data.
    """

    work: Callable[[], object]
    amount: float = 1.0


def clock_of(device: torch.device) -> Clock:
    """Seconds, read when the device has done all that it was given."""
    if device.type != "cuda":
        return time.perf_counter

    def read() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def interleave(turns: Mapping[str, Turn], rounds: int, clock: Clock) -> dict[str, list[float]]:
    """The seconds that a unit of each work takes, one entry a round.

    All works have their turn in every round, so that a machine which slows down does so for all. Each round has an
    order of its own, drawn at random and the same each time: none always finds the caches as the same neighbour left
    them.

    Args:
        turns: by name.
        rounds: how many turns each has.
        clock: of the device that they run on.
    """
    order, shuffle = list(turns), random.Random(0).shuffle
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            turn = turns[name]
            start = clock()
            turn.work()
            seconds[name].append((clock() - start) / turn.amount)
    return seconds


def seconds_of(work: Callable[[], object], clock: Clock) -> float:
    """The time of one turn."""
    return interleave({"": Turn(work)}, 1, clock)[""][0]


TRIES = 2
"""Of what is chosen by its time."""


def least_seconds(work: Callable[[], object], clock: Clock) -> float:
    """The shortest time of several turns, by which the fastest way to do something is chosen."""
    return min(seconds_of(work, clock) for _ in range(TRIES))


TURN = 0.04
"""Seconds that a turn takes at least: several steps of a small model, so that the caches are its own."""


def times_a_turn(work: Callable[[], object], clock: Clock) -> int:
    """How often a turn repeats a work to be as long as :data:`TURN`."""
    return max(1, math.ceil(TURN / max(1e-6, seconds_of(work, clock))))


def repeated(work: Callable[[], object], times: int) -> Callable[[], None]:
    """So many times as one work."""

    def together() -> None:
        for _ in range(times):
            work()

    return together


def long_turn(work: Callable[[], object], clock: Clock, amount: float = 1.0) -> Turn:
    """The work as often as makes a turn of :data:`TURN`; once it does ``amount``."""
    times = times_a_turn(work, clock)
    return Turn(repeated(work, times), times * amount)


def over(seconds: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Round by round, a time over another's.

    Example:
        >>> over([2.0, 9.0], [1.0, 3.0])
        [2.0, 3.0]
    """
    return [a / b for a, b in zip(seconds, reference, strict=True)]
