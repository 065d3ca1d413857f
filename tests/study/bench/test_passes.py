from dataclasses import replace

import pytest
import torch
from avalanche.models import SlimResNet18
from torch import nn

from study.bench import pass_times
from study.bench.other_libraries import other_libraries, torch_func
from study.bench.pass_times import EPOCHS, FASTER, FASTEST_PEER, measure_passes
from study.bench.passes import Pass, avalanche, one_at_a_time, ours
from study.bench.record import Agreement, Measurement, Skipped
from study.bench.same_numbers import double_precision, max_relative_difference
from study.bench.workloads import CNN, MLP_400, RESNET, VIT, ReducedResNet18, Workload, mlp

CPU = torch.device("cpu")
TINY = Workload("tiny", lambda classes: mlp(4, classes), (784,), batch=16, samples=64)


@pytest.fixture(scope="module")
def found():
    return list(measure_passes(TINY, 3, CPU, rounds=2, samples=64, patience=1.0))


def of(kind, found):
    return [each for each in found if isinstance(each, kind)]


def test_every_variant_of_ours_is_timed(found):
    timed = {each.mode for each in of(Measurement, found) if each.quantity == EPOCHS and each.ours}
    assert timed == {each.name for each in ours() if each.only is None}


def test_passes_agree_with_one_sample_at_a_time_before_they_are_timed(found):
    agreements = of(Agreement, found)
    assert all(each.holds for each in agreements), [each.line for each in agreements if not each.holds]
    compared = {each.mode: each.reference for each in agreements}
    for computes in ("exact Fisher", "empirical Fisher", "predicted Fisher", "MAS, squared norm", "MAS, vector"):
        assert compared[f"{computes}, ours"] == f"{computes}, one at a time"
    assert compared["batched Fisher, Avalanche"] == "batched Fisher, ours"
    assert compared["batched MAS, Avalanche"] == "batched MAS, ours"
    assert compared["exact Fisher, torch.func"] == "exact Fisher, one at a time"


def test_only_what_holds_all_classes_at_once_takes_fewer_samples_of_more_classes():
    fewer = {each.name for each in [*other_libraries()[0], *one_at_a_time(), *avalanche()] if each.all_classes_at_once}
    assert fewer <= {"exact Fisher, BackPACK"}
    for workload in (MLP_400, CNN, RESNET, VIT):
        assert workload.at_a_time(100, False) == workload.at_a_time(10, False) == workload.at_a_time(10, True)
        assert workload.at_a_time(100, True) == tuple(wide // 10 for wide in workload.wide)


def test_the_batch_of_a_peer_is_its_own(monkeypatch):
    taken = {}

    def noting(name):
        def measure(model, inputs, targets, batch):
            taken[name] = batch
            return right.measure(model, inputs, targets, batch)

        return measure

    (right,) = [each for each in torch_func() if each.computes == "empirical Fisher"]
    others = [
        Pass("empirical Fisher", "of a class", noting("of a class")),
        Pass("empirical Fisher", "of all", noting("of all"), all_classes_at_once=True),
    ]
    monkeypatch.setattr(pass_times, "other_libraries", lambda: (others, {}))
    list(measure_passes(replace(TINY, wide=(60,)), 20, CPU, rounds=1, samples=8, patience=0.01))
    assert taken == {"of a class": 60, "of all": 30}


@pytest.mark.parametrize(
    ("seconds", "patience", "chosen"),
    [
        ({2: 2.0, 4: 2.0, 8: 8.0}, 99, 4),  # 1.0, 0.5 and 1.0 a sample
        ({2: 2.0, 4: 2.0, 8: 2.0}, 99, 8),
        ({2: 2.0, 4: 4.4, 8: 4.0}, 99, 8),  # 1.0, 1.1 and 0.5 a sample: one that is hardly slower does not end it
        ({2: 2.0, 4: 4.4, 8: 9.6}, 99, 2),  # nor is it taken
        ({2: 2.0, 4: 2.0, 8: 2.0}, 3, 2),  # 4 samples would take 4 seconds at the pace of 2
        ({2: 2.0, 4: None, 8: 2.0}, 99, 2),  # one that fails ends the search
    ],
)
def test_a_peer_takes_the_number_of_samples_at_a_time_that_suits_it_best(monkeypatch, seconds, patience, chosen):
    def timed(work, clock):
        (*_, inputs, targets, size) = work.args
        assert len(inputs) == len(targets) == size
        if seconds[size] is None:
            raise RuntimeError("no memory is left")
        return seconds[size]

    monkeypatch.setattr("study.bench.timing.seconds_of", timed)
    candidates = pass_times._Candidates(replace(TINY, wide=(2, 4, 8)), 3, CPU, 64, patience)
    assert candidates._fastest(Pass("empirical Fisher", "a peer", print)) == chosen


def test_what_is_no_other_library_has_no_choice_of_samples_at_a_time(found):
    notes = {each.mode: each.note for each in of(Measurement, found) if each.quantity == EPOCHS}
    assert "at a time" not in notes["exact Fisher, ours"]


def test_the_first_samples_only_are_timed_where_most_are_left_out(monkeypatch):
    of_few = measure_passes(TINY, 3, CPU, rounds=1, samples=8, patience=0.01)
    reasons = {each.mode: each.reason for each in of(Skipped, of_few)}
    assert reasons["exact Fisher, n = 500, ours"] == "8 samples are too few to leave all but 500 out"
    monkeypatch.setattr("study.bench.passes.ONLY", 2)
    found = list(measure_passes(TINY, 3, CPU, rounds=1, samples=64, patience=0.0))
    (first,) = [each for each in of(Measurement, found) if each.mode == "exact Fisher, n = 2, ours" and each.seconds]
    assert "scaled" not in first.note


def test_a_slow_loop_is_timed_on_a_few_samples_and_says_so():
    found = list(measure_passes(TINY, 3, CPU, rounds=1, samples=64, patience=0.0))
    notes = {each.mode: each.note for each in of(Measurement, found) if each.quantity == EPOCHS}
    assert notes["exact Fisher, one at a time"] == "scaled from 4 samples"
    assert notes["exact Fisher, ours"] == ""


def test_speed_is_that_of_the_other_over_ours(found):
    measured = {(each.mode, each.quantity): each for each in of(Measurement, found)}
    mine = measured["exact Fisher, ours", EPOCHS]
    loop = measured["exact Fisher, one at a time", EPOCHS]
    faster = measured["exact Fisher, ours", f"{FASTER} one at a time"]
    assert faster.values == pytest.approx([a / b for a, b in zip(loop.seconds, mine.seconds, strict=True)])
    assert faster.better == "higher"
    peers = [each.by for each in other_libraries()[0] if each.computes == "exact Fisher"]
    of_peers = [measured["exact Fisher, ours", f"{FASTER} {peer}"].values for peer in peers]
    fastest = measured["exact Fisher, ours", f"{FASTER} {FASTEST_PEER}"]
    assert fastest.values == tuple(map(min, zip(*of_peers, strict=True)))


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("study.bench.other_libraries._imported", missing)
    available, reasons = other_libraries()
    assert {each.by for each in available} == {"torch.func"}
    assert set(reasons) == {"backpack-for-pytorch", "curvlinops-for-pytorch"}
    assert "clreg[bench]" in reasons["backpack-for-pytorch"]


def test_a_peer_that_computes_something_else_is_caught_and_not_timed(monkeypatch):
    (right,) = [each for each in torch_func() if each.computes == "empirical Fisher"]

    def wrong(*arguments):
        return {name: 1.01 * value for name, value in right.measure(*arguments).items()}

    def nowhere(*arguments):
        raise NotImplementedError("no such layer")

    others = [Pass("empirical Fisher", "a wrong peer", wrong), Pass("exact Fisher", "a weak peer", nowhere)]
    monkeypatch.setattr(pass_times, "other_libraries", lambda: (others, {}))
    found = list(measure_passes(TINY, 3, CPU, rounds=1, samples=64, patience=0.1))
    (compared,) = [each for each in of(Agreement, found) if "wrong peer" in each.mode]
    assert not compared.holds
    assert compared.difference == pytest.approx(0.01, rel=1e-3)
    reasons = {each.mode: each.reason for each in of(Skipped, found)}
    assert "its numbers are not those of empirical Fisher, one at a time" in reasons["empirical Fisher, a wrong peer"]
    assert reasons["exact Fisher, a weak peer"] == "NotImplementedError: no such layer"
    assert not any("peer" in each.mode for each in of(Measurement, found))


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"w": torch.tensor([1.0, 2.0])}, 0.0),
        ({"w": torch.tensor([1.0, 3.0])}, 0.5),
        ({"w": torch.tensor([float("nan"), 2.0])}, float("nan")),
    ],
)
def test_the_difference_is_relative_to_the_largest_entry_and_nan_is_a_difference(result, expected):
    difference = max_relative_difference(result, {"w": torch.tensor([1.0, 2.0])})
    assert difference == pytest.approx(expected, nan_ok=True)
    assert (difference <= 1e-4) == (expected == 0)


def test_backpack_agrees_on_a_residual_network():
    backpack = [each for each in other_libraries()[0] if each.by == "BackPACK"]
    if not backpack:
        pytest.skip("BackPACK is not installed")
    model = RESNET.model(3, CPU).double()
    inputs, targets = RESNET.images(2, 3, CPU)
    loops = {each.computes: each for each in one_at_a_time()}
    for each in backpack:
        if not each.random:
            with double_precision():
                results = [by.measure(model, inputs.double(), targets, 2) for by in (each, loops[each.computes])]
            assert max_relative_difference(*results) < 1e-4, each.name


def test_where_batches_are_normalised_avalanches_mas_is_another_quantity():
    (mas,) = [each for each in avalanche() if each.computes == "batched MAS"]
    assert mas.batch_statistics


def test_the_reduced_resnet_is_avalanches():
    mine, theirs = ReducedResNet18(10), SlimResNet18(10)
    own, others = list(mine.parameters()), list(theirs.parameters())
    assert [p.shape for p in own] == [p.shape for p in others]
    with torch.no_grad():
        for p, q in zip(own, others, strict=True):
            p.copy_(q)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mine.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("workload", [MLP_400, CNN, RESNET, VIT], ids=lambda each: each.name)
def test_models_are_the_same_each_time_and_leave_the_generator_alone(workload):
    state = torch.get_rng_state()
    a, b = workload.model(7, CPU), workload.model(7, CPU)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert isinstance(a, nn.Module)
    assert a.eval()(workload.images(2, 7, CPU)[0]).shape == (2, 7)


@pytest.mark.parametrize("workload", [MLP_400, CNN, RESNET, VIT], ids=lambda each: each.name)
def test_every_parameter_of_a_fresh_model_has_some_importance(workload):
    (exact,) = [each for each in ours() if each.computes == "exact Fisher"]
    found = exact.measure(workload.model(3, CPU), *workload.images(4, 3, CPU), 4)
    assert [name for name, value in found.items() if not value.any()] == []
