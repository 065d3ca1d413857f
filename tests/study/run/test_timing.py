import torch

from study.run.timing import FEWEST, Turn, clock_of, interleave, long_turn, over


class Time:
    """A clock that only what is timed moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slowness = 1.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float, then=lambda: None):
        def work(*_: object) -> None:
            self.now += seconds * self.slowness
            then()

        return work


def orders(names: str, rounds: int) -> list[str]:
    time, order = Time(), []
    turns = {name: Turn(time.taking(1.0, lambda name=name: order.append(name))) for name in names}
    interleave(turns, rounds, time)
    return ["".join(order[start : start + len(names)]) for start in range(0, len(order), len(names))]


def test_all_have_one_turn_in_every_round():
    assert [sorted(order) for order in orders("abcd", 5)] == [list("abcd")] * 5


def test_none_always_follows_the_same_other_and_the_order_is_reproducible():
    found = orders("abcd", 20)
    before = {name: {order[order.index(name) - 1] for order in found if not order.startswith(name)} for name in "abcd"}
    assert all(len(others) == 3 for others in before.values()), before
    assert orders("abcd", 20) == found


def test_times_are_those_of_a_unit():
    time = Time()
    turns = {"five steps": Turn(time.taking(10.0), 5), "a tenth": Turn(time.taking(1.0), 0.1)}
    assert interleave(turns, 2, time) == {"five steps": [2.0, 2.0], "a tenth": [10.0, 10.0]}


def test_a_machine_that_slows_down_changes_times_but_not_ratios():
    time = Time()

    def slower() -> None:
        time.slowness *= 2

    turns = {"plain": Turn(time.taking(1.0)), "penalised": Turn(time.taking(1.5))}
    first = interleave(turns, 1, time)
    slower()
    second = interleave(turns, 1, time)
    assert second["plain"] == [2 * first["plain"][0]]
    assert [over(seconds["penalised"], seconds["plain"]) for seconds in (first, second)] == [(1.5,), (1.5,)]


def test_patience_cuts_slow_rounds_but_leaves_some():
    time = Time()
    assert len(interleave({"slow": Turn(time.taking(10.0))}, 20, time, patience=1.0)["slow"]) == FEWEST
    assert len(interleave({"slow": Turn(time.taking(10.0))}, 20, time, patience=75.0)["slow"]) == 8
    assert len(interleave({"fast": Turn(time.taking(0.1))}, 20, time, patience=75.0)["fast"]) == 20


def test_a_short_call_is_repeated_until_the_turn_is_long_enough():
    time = Time()
    turn = long_turn(time.taking(0.015), time)
    before = time.now
    turn.work()
    assert turn.amount == 3
    assert time.now - before >= 0.04


def test_the_clock_of_a_cpu_runs():
    clock = clock_of(torch.device("cpu"))
    assert clock() <= clock()
