from types import SimpleNamespace

import pytest
import torch
from torch import nn

from clreg_plugins.importance.engine.cotangents import fisher_cotangents
from study.bench.limit import (
    BANDWIDTH,
    FLOPS,
    LEAST_PASS,
    least_operations,
    measure_bandwidth,
    measure_flops,
    products_alone,
)
from study.bench.memory import PEAK, SCRATCH, STATE, measure_held, measure_peaks
from study.bench.operations import (
    AND_PATH_INTEGRAL,
    BARE,
    COPIED,
    DIRECT,
    DIRECT_AND_PATH_INTEGRAL,
    OF_DIRECT,
    OF_PATH_INTEGRAL,
    OF_PENALTY,
    PENALTY,
    SHARE,
    TENSORS,
    Bare,
    measure_operations,
)
from study.bench.plugins import strategy_stub, training_step
from study.bench.workloads import CNN, Workload, mlp

CPU = torch.device("cpu")
SMALL = Workload("small", lambda classes: mlp(50, classes), (784,), batch=8)


@pytest.fixture(scope="module")
def held():
    return {(each.mode, each.setting, each.quantity): each.median for each in measure_held(SMALL, CPU, (1, 4))}


@pytest.mark.parametrize("method", ["L2", "EWC", "Online EWC", "MAS", "SI"])
def test_ours_hold_the_same_after_one_experience_and_after_four(held, method):
    for quantity in (STATE, SCRATCH):
        first, fourth = (held[f"{method}, ours", f"after experience {count}", quantity] for count in (1, 4))
        assert first == fourth
        assert first <= 4.01 if quantity == STATE else first <= 2.01


def test_avalanches_ewc_holds_two_copies_an_experience(held):
    copies = [held["EWC, Avalanche", f"after experience {count}", STATE] for count in (1, 4)]
    assert copies == pytest.approx([2, 8], rel=0.01)


def test_the_peak_of_a_pass_is_measured_against_each_bound():
    found = list(measure_peaks(CNN, 2, CPU, (2**24, 2**26), samples=24, rounds=1))
    assert [each.setting for each in found] == [f"2 classes, max_bytes = {size} MiB" for size in (16, 64)]
    assert all(each.quantity == PEAK and 0 <= each.median < 4 for each in found), [each.line for each in found]


def test_operations_of_a_mlp_are_those_counted_by_hand():
    a, b, c = 6 * 5, 5 * 4, 4 * 3
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    forward, backward, contraction = 2 * (a + b + c), 2 * 2 * (b + c), 2 * (a + b + c)  # 2 cotangents for 3 classes
    assert least_operations(model, torch.rand(6)) == forward + backward + contraction
    assert least_operations(model, torch.rand(6), cotangents=1) == forward + backward // 2 + contraction


def test_as_many_cotangents_are_counted_as_the_exact_fisher_takes():
    z, y = torch.rand(4, 10), torch.zeros(4, dtype=torch.long)
    taken = len(list(fisher_cotangents("exact", "categorical").vectors(z, y, torch.Generator())))
    last = nn.Linear(3, 10)
    more = least_operations(nn.Sequential(nn.Linear(7, 3), last), torch.rand(7)) - least_operations(last, torch.rand(3))
    first_layer, back_through_the_last = 2 * 2 * 7 * 3, 2 * 3 * 10
    assert more == first_layer + taken * back_through_the_last


def test_a_convolution_acts_at_every_position_and_forms_every_gradient():
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten(), nn.Linear(3 * 4 * 4, 5))
    conv, linear, positions = 2 * 3 * 9, 48 * 5, 16
    forward = 2 * (conv * positions + linear)
    backward = 4 * 2 * linear
    contraction = 2 * (4 * conv * positions + linear)
    assert least_operations(model, torch.rand(2, 4, 4)) == forward + backward + contraction


@pytest.mark.filterwarnings("ignore:weights changed outside")  # what is timed moves them by hand
def test_shares_of_the_limit_are_measured():
    flops, alone, exact, empirical = measure_flops(SMALL, 3, CPU, rounds=2, samples=32)
    assert flops.quantity == alone.quantity == FLOPS
    assert flops.better == alone.better == "higher"
    assert flops.median > 0
    assert alone.median > 0
    assert (flops.ours, alone.ours) == (True, False), "what a machine does is no regression of ours"
    assert {exact.quantity, empirical.quantity} == {LEAST_PASS}
    assert exact.median > empirical.median > 0
    found = list(measure_bandwidth(SMALL, CPU, rounds=2))
    assert {each.quantity for each in found} == {BANDWIDTH}
    assert {"EWC, ours", "SI, ours", "EWC, Avalanche", "L2, plain autograd"} <= {each.mode for each in found}
    assert all(each.median > 0 for each in found)


def test_bare_operations_are_done_in_the_places_of_a_plugins():
    model = mlp(5, 3)
    strategy = strategy_stub(model)
    bare = Bare({**OF_PENALTY, **OF_PATH_INTEGRAL}, model)
    for _, tensors in bare.parameters:
        tensors.omega.zero_()
    start = [p.detach().clone() for p in model.parameters()]
    training_step(strategy, bare, *SMALL.images(4, 3, CPU))()
    for before, (p, tensors) in zip(start, bare.parameters, strict=True):
        penalty = tensors.importance * (before - tensors.anchor)
        torch.testing.assert_close(tensors.g, p.grad - penalty, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(tensors.omega, -tensors.g * (p.detach() - before), rtol=1e-4, atol=1e-6)
        assert tensors.omega.any()


def test_products_alone_are_those_that_are_counted(monkeypatch):
    model, counted = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), []
    multiply = torch.mm

    def count(left, right, *, out):
        counted.append(2 * left.shape[0] * left.shape[1] * right.shape[1])
        return multiply(left, right, out=out)

    work = products_alone(model, 7, 2)
    monkeypatch.setattr(torch, "mm", count)
    work()
    assert sum(counted) == 7 * least_operations(model, torch.rand(6))
    assert products_alone(nn.Sequential(nn.Conv2d(1, 2, 3)), 7, 2) is None


def test_a_steps_operations_are_measured_one_by_one_and_in_their_order():
    found = list(measure_operations(SMALL, CPU, rounds=2))
    shares = {each.mode: each.median for each in found if each.quantity == SHARE}
    bare = {each.mode: each.median for each in found if each.quantity == BARE}
    assert list(shares) == [*OF_PENALTY, list(OF_DIRECT)[-1], *OF_PATH_INTEGRAL]
    together = [PENALTY, DIRECT, AND_PATH_INTEGRAL, DIRECT_AND_PATH_INTEGRAL]
    assert list(bare) == [*together, f"{PENALTY}, {COPIED}", f"{AND_PATH_INTEGRAL}, {COPIED}"]
    assert all(value > 0 for value in [*shares.values(), *bare.values()])
    assert not any(each.ours for each in found), "what a machine does is no regression of ours"


@pytest.mark.parametrize("of_penalty", [OF_PENALTY, OF_DIRECT], ids=["autograd", "direct"])
def test_the_operations_are_those_of_a_step(of_penalty):
    theta, anchor, importance, total = torch.rand(4, 7, dtype=torch.float64)
    moved = theta + 1
    p = SimpleNamespace(scale=torch.ones(()), **{name: torch.zeros(7, dtype=torch.float64) for name in TENSORS})
    p.theta, p.anchor, p.importance, p.total = theta, anchor, importance, total.clone()
    value = [operation.do(p) for operation in of_penalty.values()][2]
    gradient = importance * (theta - anchor)
    assert value == pytest.approx((gradient * (theta - anchor)).sum().item())
    torch.testing.assert_close(p.total, total + gradient)
    for name, operation in OF_PATH_INTEGRAL.items():
        operation.do(p)
        if name == "SI: θ remembered":
            p.theta = moved
    torch.testing.assert_close(p.omega, -total * (moved - theta))
