import torch

from study.bench.pass_times import affordable
from study.bench.steps import FEWEST, GROWTH, ONE_TERM, QUANTITY, measure_steps
from study.bench.timing import Turn, clock_of, interleave, over
from study.bench.workloads import Workload, mlp


class Time:
    """A clock that only works move."""

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


def test_every_work_has_its_turn_in_every_round():
    assert [sorted(order) for order in orders("abcd", 5)] == [list("abcd")] * 5


def test_no_work_always_follows_the_same_other_and_the_order_is_the_same_each_time():
    found = orders("abcd", 20)
    before = {name: {order[order.index(name) - 1] for order in found if not order.startswith(name)} for name in "abcd"}
    assert all(len(others) == 3 for others in before.values()), before
    assert orders("abcd", 20) == found


def test_times_are_those_of_a_unit_of_work():
    time = Time()
    turns = {"five steps": Turn(time.taking(10.0), 5), "a tenth": Turn(time.taking(1.0), 0.1)}
    assert interleave(turns, 2, time) == {"five steps": [2.0, 2.0], "a tenth": [10.0, 10.0]}


def test_a_machine_that_slows_down_changes_times_and_not_ratios():
    time = Time()

    def slower() -> None:
        time.slowness *= 2

    turns = {"plain": Turn(time.taking(1.0)), "penalised": Turn(time.taking(1.5))}
    first = interleave(turns, 1, time)
    slower()
    second = interleave(turns, 1, time)
    assert second["plain"] == [2 * first["plain"][0]]
    ratios = [over(seconds["penalised"], seconds["plain"]) for seconds in (first, second)]
    assert ratios == [[1.5], [1.5]]


def test_a_slow_pass_gets_as_many_samples_as_its_patience_allows():
    time, tried = Time(), []

    def work(n: int) -> None:
        tried.append(n)
        time.now += 0.5 + 0.01 * n  # something that does not depend on n, and ten milliseconds a sample

    n = affordable(work, samples=10_000, fewest=10, patience=10.0, clock=time)
    assert 300 <= n <= 950, f"{n} samples would take {0.5 + 0.01 * n:.1f} s of 10 s"
    assert tried[0] == 10
    assert affordable(work, samples=50, fewest=10, patience=10.0, clock=time) == 50
    assert affordable(work, samples=50, fewest=40, patience=0.001, clock=time) == 40


def test_the_clock_of_a_cpu_runs():
    clock = clock_of(torch.device("cpu"))
    assert clock() <= clock()


TINY = Workload("tiny", lambda classes: mlp(4, classes), (784,), batch=8, samples=16)


def test_steps_of_every_kind_are_measured_at_every_experience(monkeypatch):
    monkeypatch.setattr("study.bench.timing.TURN", 0.0)
    found = list(measure_steps(TINY, torch.device("cpu"), 2, (2, 4), ["L2", "EWC", "SI"]))
    mine = {"ours", "ours, direct"}
    at_first = {"L2": mine | {"plain autograd"}, "EWC": mine | {"Avalanche", "plain autograd"}}
    at_first["SI"] = mine | {"Avalanche", "Avalanche, mended", "plain autograd"}
    at_last = {"L2": mine, "EWC": at_first["EWC"], "SI": mine}  # others grow with EWC only
    for experience, expected in ((2, at_first), (4, at_last)):
        for method in expected:
            measured = {
                each.mode.removeprefix(f"{method}, ")
                for each in found
                if each.setting == f"experience {experience}" and each.mode.startswith(f"{method}, ")
            }
            assert measured == expected[method], f"{method}, experience {experience}"
    assert {each.note for each in found if each.mode == "L2, plain autograd"} == {ONE_TERM}
    assert {each.quantity for each in found} == {QUANTITY, GROWTH}
    assert all(len(each.values) == 2 and min(each.values) > 0 for each in found)
    assert {each.ours for each in found if each.mode == "EWC, ours"} == {True}
    assert any("SI remembers the parameters themselves" in each.note for each in found if each.mode == "SI, Avalanche")


def test_slow_models_have_fewer_rounds_but_some(monkeypatch):
    monkeypatch.setattr("study.bench.timing.TURN", 0.0)
    monkeypatch.setattr("study.bench.steps.PATIENCE", 0.0)
    found = list(measure_steps(TINY, torch.device("cpu"), 15, (2,), ["L2"]))
    assert {len(each.values) for each in found} == {FEWEST}


def test_what_does_not_fit_the_memory_is_left_out_and_named(monkeypatch):
    monkeypatch.setattr("study.bench.timing.TURN", 0.0)
    monkeypatch.setattr("study.bench.steps.available_bytes", lambda device: 60.0 * 4 * 3_214)
    found = list(measure_steps(TINY, torch.device("cpu"), 1, (2, 50), ["EWC"]))
    left_out = {(each.mode, each.setting) for each in found if hasattr(each, "reason")}
    assert left_out == {("EWC, Avalanche", "experience 50"), ("EWC, plain autograd", "experience 50")}
    measured = {(each.mode, each.setting) for each in found if not hasattr(each, "reason")}
    assert ("EWC, ours", "experience 50") in measured
