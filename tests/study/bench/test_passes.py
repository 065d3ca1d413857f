from dataclasses import replace

import pytest
import torch
from avalanche.models import SlimResNet18
from torch import nn

from clreg_plugins.importance.engine.cotangents import fisher_cotangents
from study.bench import libraries, pass_cost
from study.bench.libraries import other_libraries, torch_func
from study.bench.pass_cost import (
    EPOCHS,
    RATE,
    TOLERANCE,
    affordable,
    largest_difference,
    least_operations,
    measure_passes,
)
from study.bench.passes import Pass, avalanche, ours
from study.bench.record import CLREG
from study.bench.workloads import CNN, MLP_400, REDUCED_RESNET, SMALL_VIT, ReducedResNet18
from tests.study.bench.tiny import CPU, TINY
from tests.study.run.test_timing import Time

IMAGES = [CNN, REDUCED_RESNET, SMALL_VIT]


@pytest.fixture(scope="module")
def found():
    return list(measure_passes(TINY, 10, CPU, rounds=2, patience=0.05))


def test_every_pass_of_every_library_is_timed_since_their_numbers_agree(found):
    found = [each for each in found if "not installed" not in each.note]
    assert [each.line for each in found if not each.values] == []
    timed = {(each.method, each.by) for each in found if each.quantity == EPOCHS}
    assert timed == {(each.computes, each.by) for each in [*ours(), *other_libraries()[0], *avalanche()]}
    assert all(len(each.values) == 2 and min(each.values) > 0 and each.seconds > 0 for each in found)


def test_the_exact_fisher_of_a_mlp_is_compared_with_a_matrix_product(found):
    (rate,) = [each for each in found if each.quantity == RATE]
    (epochs,) = [each for each in found if (each.method, each.by, each.quantity) == ("exact Fisher", CLREG, EPOCHS)]
    assert (rate.method, rate.by, rate.seconds) == ("exact Fisher", CLREG, epochs.seconds)
    assert 0 < rate.median < 1


def test_as_many_backward_products_are_counted_as_the_exact_fisher_makes():
    z, y = torch.rand(4, 10), torch.zeros(4, dtype=torch.long)
    cotangents = len(list(fisher_cotangents("exact", "categorical").vectors(z, y, torch.Generator())))
    first, last = nn.Linear(7, 3), nn.Linear(3, 10)
    forward, contraction, backward = 2 * (21 + 30), 2 * (21 + 30), cotangents * 2 * 30
    assert least_operations(nn.Sequential(first, last)) == forward + contraction + backward


def test_a_pass_with_other_numbers_or_an_error_is_named_and_not_timed(monkeypatch):
    (right,) = [each for each in torch_func() if each.computes == "empirical Fisher"]

    def wrong(*arguments):
        return {name: 1.01 * value for name, value in right.measure(*arguments).items()}

    def failing(*arguments):
        raise NotImplementedError("no such layer")

    others = [Pass("empirical Fisher", "wrong", wrong), Pass("exact Fisher", "failing", failing)]
    monkeypatch.setattr(pass_cost, "other_libraries", lambda: (others, {"absent": "not installed"}))
    notes = {each.by: each.note for each in measure_passes(TINY, 3, CPU, 1, 0.01) if not each.values}
    assert set(notes) == {"wrong", "failing", "absent"}
    assert "differ from ours by 0.01; allowed: 0.0001" in notes["wrong"]
    assert notes["failing"] == "NotImplementedError: no such layer"


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0, 2.0], 0.0), ([1.0, 3.0], 0.5), ([float("nan"), 2.0], float("nan"))]
)
def test_nan_is_a_difference(values, expected):
    difference = largest_difference({"w": torch.tensor(values)}, {"w": torch.tensor([1.0, 2.0])})
    assert difference == pytest.approx(expected, nan_ok=True)
    assert (difference <= TOLERANCE) == (expected == 0)


@pytest.mark.parametrize(
    ("seconds", "patience", "chosen"),
    [
        ({2: 2.0, 4: 2.0, 8: 8.0}, 99, 4),  # 1.0, 0.5 and 1.0 a sample
        ({2: 2.0, 4: 2.0, 8: 2.0}, 99, 8),
        ({2: 2.0, 4: 2.0, 8: 2.0}, 3, 2),  # 4 samples would take 4 seconds at the pace of 2
        ({2: 2.0, 4: None, 8: 2.0}, 99, 2),  # out of memory ends the search
    ],
)
def test_another_library_gets_the_batch_size_that_suits_it_best(seconds, patience, chosen):
    clock = Time()

    def measure(model, images, batch):
        assert len(images.inputs) == batch
        if seconds[batch] is None:
            raise torch.OutOfMemoryError("no memory is left")
        clock.now += seconds[batch]

    preparation = pass_cost._Preparation(replace(TINY, sizes=(2, 4, 8)), 3, CPU, patience)
    assert preparation._best_batch(Pass("empirical Fisher", "a library", measure, chooses_batch=True), clock) == chosen


def test_a_slow_pass_is_timed_on_as_many_samples_as_its_patience_allows():
    time, tried = Time(), []

    def work(n: int) -> None:
        tried.append(n)
        time.now += 0.5 + 0.01 * n

    n = affordable(work, samples=10_000, fewest=10, patience=10.0, clock=time)
    assert 300 <= n <= 950, f"{n} samples would take {0.5 + 0.01 * n:.1f} s of 10 s"
    assert tried[0] == 10
    assert affordable(work, samples=50, fewest=10, patience=10.0, clock=time) == 50
    assert affordable(work, samples=50, fewest=40, patience=0.001, clock=time) == 40


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(libraries, "_imported", missing)
    available, reasons = other_libraries()
    assert {each.by for each in available} == {"torch.func"}
    assert set(reasons) == {"BackPACK", "curvlinops"}
    assert "-e '.[bench]'" in reasons["BackPACK"]


def test_backpack_agrees_on_a_residual_network():
    passes = [each for each in other_libraries()[0] if each.by == "BackPACK" and not each.random]
    if not passes:
        pytest.skip("BackPACK is not installed")
    preparation = pass_cost._Preparation(replace(REDUCED_RESNET, samples=2), 3, CPU, 1.0)
    for each in [*ours(), *passes]:
        preparation.check(each)


@pytest.mark.filterwarnings("ignore")  # deprecated features that other libraries use
def test_random_passes_estimate_the_exact_fisher():
    model, images = MLP_400.model(10, CPU), MLP_400.images(64, 10, CPU)
    exact, *others = [*ours(), *other_libraries()[0]]
    total = sum(float(value.sum()) for value in exact.measure(model, images, 64).values())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for each in (each for each in others if each.random):
            found = sum(float(value.sum()) for value in each.measure(model, images, 64).values())
            assert abs(found / total - 1) < 0.2, f"{each.computes}, {each.by}: {found} instead of {total}"


def test_the_reduced_resnet_is_avalanches():
    mine, theirs = ReducedResNet18(10), SlimResNet18(10)
    own, others = list(mine.parameters()), list(theirs.parameters())
    assert [p.shape for p in own] == [p.shape for p in others]
    with torch.no_grad():
        for p, q in zip(own, others, strict=True):
            p.copy_(q)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mine.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("workload", [MLP_400, *IMAGES], ids=lambda each: each.name)
def test_a_model_is_the_same_each_time_and_all_of_its_parameters_matter(workload):
    state = torch.get_rng_state()
    a, b = workload.model(3, CPU), workload.model(3, CPU)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    importance = ours()[0].measure(a, workload.images(4, 3, CPU), 4)
    assert [name for name, value in importance.items() if not value.any()] == []
