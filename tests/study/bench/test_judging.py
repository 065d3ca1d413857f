"""Targets, and what has become slower."""

import math

import pytest

from study.bench import stages
from study.bench.check import regressions
from study.bench.judging import Judged, judge
from study.bench.limit import LEAST_PASS
from study.bench.operations import AND_PATH_INTEGRAL, BARE, DIRECT_AND_PATH_INTEGRAL, PENALTY
from study.bench.passes import ours
from study.bench.plan import FULL, LARGE_TOO
from study.bench.plugins import KINDS
from study.bench.record import BenchError, Measurement, Performance
from study.bench.targets import TARGETS, target_of
from tests.study.bench.synthetic import a_pass, agreement, measurement, performance, skipped


@pytest.mark.parametrize(
    ("mode", "value", "met"),
    [
        ("EWC, ours", 1.15, True),
        ("EWC, ours", 1.154, True),  # as it is shown
        ("EWC, ours", 1.156, False),
        ("SI, ours", 1.25, True),
        ("SI, ours", 1.26, False),
        ("L2, ours, direct", 1.10, True),
        ("L2, ours, direct", 1.11, False),
        ("SI, ours, direct", 1.20, True),
    ],
)
def test_a_step_is_held_to_the_bound_of_its_kind(mode, value, met):
    found = measurement(mode, value)
    assert target_of(found, "cpu").met(found) is met


def test_others_are_held_to_nothing():
    for mode in ("EWC, Avalanche", "SI, Avalanche, mended", "EWC, plain autograd"):
        assert target_of(measurement(mode, 9.0), "cpu") is None


def test_where_more_is_better_less_is_a_miss():
    found = [a_pass("exact Fisher, ours", value, quantity="times as fast as BackPACK") for value in (2.0, 1.9)]
    assert [target_of(each, "cpu").met(each) for each in found] == [True, False]


def test_a_target_is_about_its_model_and_its_number_of_classes():
    assert target_of(a_pass("exact Fisher, ours", 1.0), "cpu") is not None
    assert target_of(a_pass("exact Fisher, ours", 1.0, setting="100 classes"), "cpu") is None
    assert target_of(a_pass("exact Fisher, ours", 1.0, model="small ViT"), "cpu") is None


def test_every_target_is_about_what_is_measured():
    models = {each.name for scale in (FULL, LARGE_TOO) for each in (*scale.step_models, *scale.pass_models)}
    modes = {f"{method}, {kind}" for kind, factories in KINDS.items() for method in factories}
    modes |= {each.name for each in ours()}
    for target in TARGETS:
        assert set(target.models) <= models, target.what
        assert set(target.modes) <= modes, target.what


def judged(what: str, found: Performance) -> Judged:
    (one,) = [each for each in judge(found) if each.target.what == what]
    return one


OVER_BACKPACK = "exact Fisher of a MLP, times as fast as BackPACK's"
OVER_PEERS = "exact Fisher of CNN and ResNet, times as fast as the fastest peer's"


def test_no_target_is_left_out_where_little_was_measured():
    found = judge(performance(measurement("EWC, ours", 1.1)))
    assert [each.target for each in found] == [each for each in TARGETS if each.device == "cpu"]
    assert judged(OVER_BACKPACK, performance(measurement("EWC, ours", 1.1))).reasons == (
        "this part was not measured: --only pass does"
    )


def test_a_target_that_is_measured_in_part_is_not_met_throughout():
    methods = ("L2", "EWC", "Online EWC", "MAS")
    what = "a step with L2, EWC, Online EWC or MAS, times Naive's"
    all_of_it = judged(what, performance(*(measurement(f"{method}, ours", 1.1) for method in methods)))
    assert all_of_it.met_throughout
    assert all_of_it.missing == ()
    part_of_it = judged(what, performance(*(measurement(f"{method}, ours", 1.1) for method in methods[1:])))
    assert not part_of_it.met_throughout
    assert [where for where, _ in part_of_it.missing] == ["L2, ours"]


def test_a_step_that_was_left_out_on_one_model_is_missing():
    left_out = skipped("SI, ours", part="step", model="small ViT", setting="experience 50", reason="too large")
    found = judged("a step with SI, times Naive's", performance(measurement("SI, ours", 1.1), skipped=(left_out,)))
    assert found.missing == (("SI, ours, small ViT, experience 50", "too large"),)


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        (skipped(model="MLP 400-400"), "exact Fisher, BackPACK: it knows no attention"),
        (skipped("exact Fisher, ours", model="MLP 400-400"), "it knows no attention"),
        (
            skipped("backpack-for-pytorch", model="MLP 400-400", reason="not installed"),
            "backpack-for-pytorch: not installed",
        ),
        (skipped("exact Fisher, torch.func", model="MLP 400-400"), "nothing of it was recorded"),
        (skipped(), "nothing of it was recorded"),  # on another model
        (skipped(model="MLP 400-400", setting="100 classes"), "nothing of it was recorded"),
    ],
)
def test_the_reason_is_what_was_said_of_ours_or_of_the_rival(left_out, said):
    found = performance(a_pass("exact Fisher, ours", 0.9), skipped=(left_out,))
    assert judged(OVER_BACKPACK, found).reasons == said


def test_the_fastest_peer_is_missing_for_the_reasons_of_all_peers():
    left_out = skipped("exact Fisher, torch.func", model="4-layer CNN", reason="out of memory")
    missing = dict(judged(OVER_PEERS, performance(a_pass("exact Fisher, ours", 0.9), skipped=(left_out,))).missing)
    assert missing == {
        "exact Fisher, ours, 4-layer CNN": "exact Fisher, torch.func: out of memory",
        "exact Fisher, ours, reduced ResNet-18": "nothing of it was recorded",
    }


RECORDED = performance(
    measurement("EWC, ours", 1.1),
    measurement("EWC, Avalanche", 1.4),
    a_pass("exact Fisher, ours", 80.0, quantity="times as fast as one at a time", better="higher"),
)


def test_the_same_again_is_no_regression():
    assert regressions(RECORDED, RECORDED) == []


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (measurement("EWC, ours", 1.6), None),
        (measurement("EWC, ours", 1.7), "step over Naive's: EWC, ours, MLP 400-400, experience 2: 1.70, recorded 1.10"),
        (measurement("EWC, ours", 0.5), None),
        (
            a_pass("exact Fisher, ours", 50.0, quantity="times as fast as one at a time", better="higher"),
            "times as fast as one at a time: exact Fisher, ours, MLP 400-400, 10 classes: 50.00, recorded 80.00",
        ),
        (a_pass("exact Fisher, ours", 60.0, quantity="times as fast as one at a time", better="higher"), None),
    ],
)
def test_what_is_worse_by_more_than_half_is_named(now, named):
    assert regressions(performance(now), RECORDED) == ([] if named is None else [named])


def test_a_ratio_that_is_no_number_any_more_is_named():
    nan, infinite = performance(measurement("EWC, ours", math.nan)), performance(measurement("EWC, ours", math.inf))
    where = "step over Naive's: EWC, ours, MLP 400-400, experience 2"
    assert regressions(nan, RECORDED) == [f"{where}: nan, recorded 1.10"]
    assert regressions(infinite, RECORDED) == [f"{where}: inf, recorded 1.10"]


def test_what_was_recorded_as_no_number_is_not_compared():
    recorded = performance(measurement("EWC, ours", 1.1), measurement("SI, ours", math.nan))
    assert regressions(performance(measurement("EWC, ours", 1.1), measurement("SI, ours", 1.2)), recorded) == []


def test_what_fails_now_is_named_with_its_reason():
    recorded = performance(a_pass("exact Fisher, ours", 0.9), a_pass("sample Fisher, ours", 0.3))
    failed = skipped("exact Fisher, ours", model="MLP 400-400", reason="RuntimeError: no")
    now = performance(a_pass("sample Fisher, ours", 0.3), skipped=(failed,))
    assert regressions(now, recorded) == [
        "exact Fisher, ours, MLP 400-400, 10 classes: recorded, and not measured now: RuntimeError: no"
    ]


def test_what_is_missing_is_named_once_and_what_was_not_looked_at_is_not():
    recorded = performance(
        measurement("EWC, ours", 1.1),
        measurement("SI, ours", 1.2),
        measurement("SI, ours", 1.2, setting="experience 10"),
        measurement("SI, ours", 1.2, model="small ViT"),
        measurement("SI, Avalanche", 1.2),
    )
    assert regressions(performance(measurement("EWC, ours", 1.1)), recorded) == [
        "SI, ours, MLP 400-400, experience 2: recorded, and not measured now: it is missing"
    ]


def test_a_peer_that_is_not_installed_any_more_is_no_regression():
    faster = a_pass("exact Fisher, ours", 2.0, quantity="times as fast as BackPACK", better="higher")
    mine = a_pass("exact Fisher, ours", 0.9)
    assert regressions(performance(mine), performance(mine, faster)) == []


def test_a_peer_that_becomes_slower_is_no_regression():
    now = performance(measurement("EWC, ours", 1.1), measurement("EWC, Avalanche", 9.0))
    assert regressions(now, RECORDED) == []


def test_noise_about_nothing_is_no_regression_and_a_step_that_begins_to_wait_is():
    recorded = performance(measurement("SI, ours", 0.0), measurement("L2, ours", 0.01))
    now = performance(measurement("SI, ours", 2.0), measurement("L2, ours", 0.05))
    assert regressions(now, recorded) == ["step over Naive's: SI, ours, MLP 400-400, experience 2: 2.00, recorded 0.00"]


def test_times_of_another_machine_are_not_compared():
    recorded = performance(measurement("none", 10.0, relative=False, ours=True), measurement("EWC, ours", 1.1))
    now = performance(measurement("none", 900.0, relative=False, ours=True), measurement("EWC, ours", 1.1))
    assert regressions(now, recorded) == []


def test_numbers_of_ours_that_no_longer_agree_are_named():
    now = performance(measurement("EWC, ours", 1.1), agreements=(agreement(0.5), agreement(0.5, "x, BackPACK")))
    assert regressions(now, RECORDED) == [
        "exact Fisher, ours, MLP 400-400, 10 classes: 0.5 off exact Fisher, one at a time"
    ]


def test_nothing_in_common_is_an_error():
    with pytest.raises(BenchError, match="record them first"):
        regressions(performance(measurement("EWC, ours", model="another")), RECORDED)


def bare(mode: str, quantity: str, value: float, model: str = "MLP 400-400") -> Measurement:
    return measurement(mode, value, part="limit", model=model, setting="", quantity=quantity, ours=False)


def test_what_a_step_is_made_of_stands_beside_the_worst_of_its_model():
    found = performance(
        measurement("SI, ours", 1.5),
        measurement("EWC, ours", 1.2),
        measurement("EWC, ours", 1.4, model="MLP 1000-1000"),
        bare(PENALTY, BARE, 1.1),
        bare(PENALTY, BARE, 1.3, model="MLP 1000-1000"),
        bare(AND_PATH_INTEGRAL, BARE, 1.35),
        measurement("SI, ours, direct", 1.4),
        bare(DIRECT_AND_PATH_INTEGRAL, BARE, 1.25),
    )
    assert judged("a step with SI, written into the gradient directly", found).bare.median == 1.25
    assert judged("a step with SI, times Naive's", found).bare.median == 1.35
    assert judged("a step with L2, EWC, Online EWC or MAS, times Naive's", found).bare.median == 1.3


def test_what_was_not_measured_bare_has_nothing_beside_it():
    found = performance(measurement("SI, ours", 1.5, model="small ViT"), bare(AND_PATH_INTEGRAL, BARE, 1.35))
    assert judged("a step with SI, times Naive's", found).bare is None
    assert judged("exact Fisher of a MLP, 10 classes, in epochs", found).bare is None


def test_a_pass_over_convolutions_has_its_stages_and_a_comparison_how_fast_they_would_be():
    cnn = "4-layer CNN"
    found = performance(
        a_pass("exact Fisher, ours", 8.0, model=cnn),
        a_pass("exact Fisher, ours", 1.2, model=cnn, quantity="times as fast as the fastest peer"),
        a_pass("empirical Fisher, ours", 1.4, model=cnn),
        a_pass("exact Fisher, ours", 1.6),
        a_pass("exact Fisher, ours", 1.9, quantity="times as fast as BackPACK"),
        bare("exact Fisher", stages.BARE, 6.0, model=cnn),
        bare("exact Fisher", stages.OVER_BARE, 1.25, model=cnn),
        bare("empirical Fisher", stages.BARE, 1.1, model=cnn),
        bare("empirical Fisher", LEAST_PASS, 0.3, model=cnn),
    )
    assert judged("empirical and sample Fisher of CNN and ResNet, in epochs", found).bare.median == 1.1
    peer = judged("exact Fisher of CNN and ResNet, times as fast as the fastest peer's", found)
    assert peer.bare.median == pytest.approx(1.2 * 1.25)
    assert judged("exact Fisher of a MLP, 10 classes, in epochs", found).bare is None, "of another model"
    assert judged("exact Fisher of a MLP, times as fast as BackPACK's", found).bare is None


def test_a_pass_has_the_matrix_products_of_its_own_number_of_cotangents():
    found = performance(
        a_pass("exact Fisher, ours", 1.6),
        a_pass("MAS, squared norm, ours", 0.9),
        bare("exact Fisher", LEAST_PASS, 1.2),
        bare("empirical Fisher", LEAST_PASS, 0.6),
    )
    assert judged("exact Fisher of a MLP, 10 classes, in epochs", found).bare.median == 1.2
    assert judged("empirical and sample Fisher, MAS of a MLP, in epochs", found).bare.median == 0.6
