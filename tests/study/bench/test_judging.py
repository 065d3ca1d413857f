"""Targets, and what has become slower."""

from types import SimpleNamespace

import pytest

from study.bench import limit, memory, pass_times, steps, waiting
from study.bench.check import regressions
from study.bench.plan import scale_for
from study.bench.record import BenchError
from study.bench.targets import TARGETS, Target, target_of
from tests.study.bench.synthetic import a_pass, agreement, measurement, performance


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


# what each quantity is measured on: an attribute of a Scale
MEASURED_ON = {
    steps.QUANTITY: "step_models",
    steps.GROWTH: "step_models",
    pass_times.EPOCHS: "pass_models",
    **{f"{pass_times.FASTER} {peer}": "pass_models" for peer in ("one at a time", "BackPACK", pass_times.FASTEST_PEER)},
    limit.FLOPS: "limit_models",
    memory.STATE: None,  # on models of their own
    memory.SCRATCH: None,
    memory.PEAK: None,
    waiting.QUANTITY: None,
}
METHODS = ("L2", "EWC", "SI", "exact Fisher", "empirical Fisher", "sample Fisher", "MAS, squared norm")
MODES = [*(f"{method}, ours" for method in METHODS), "L2, ours, direct", "SI, ours, direct"]


class Asked(str):
    """A model's name that keeps what it is compared with, and equals nothing."""

    __hash__ = str.__hash__

    def __new__(cls, asked_for: set[str]) -> "Asked":
        name = super().__new__(cls, "")
        name.asked_for = asked_for
        return name

    def __eq__(self, other: object) -> bool:
        self.asked_for.add(other)
        return False


def not_measured(target: Target) -> set[tuple[str, str]]:
    """The quantities of a target with the models that it names for them and that the device's scale does not have."""
    scale = scale_for(target.device, quick=False)
    missing = set()
    for mode in MODES:
        for quantity, where in MEASURED_ON.items():
            asked_for: set[str] = set()
            of_any = SimpleNamespace(
                model=Asked(asked_for), mode=mode, quantity=quantity, setting="10 classes", ours=True
            )
            target.about(of_any)
            there = {workload.name for workload in getattr(scale, where)} if where else set()
            missing |= {(quantity, model) for model in asked_for - there}
    return missing


def test_every_model_that_a_target_names_is_measured_for_it():
    assert {target.what: not_measured(target) for target in TARGETS if not_measured(target)} == {}


def test_a_model_that_is_not_measured_would_be_found():
    def about(models: tuple[str, ...]) -> Target:
        return Target("a pass", 1.0, "≤", "cpu", lambda m: m.quantity == pass_times.EPOCHS and m.model in models)

    assert not_measured(about(("4-layer CNN", "MLP 400-400"))) == set()
    assert not_measured(about(("4-layer CNN", "5-layer CNN"))) == {(pass_times.EPOCHS, "5-layer CNN")}


def test_every_target_is_about_something_that_can_be_measured():
    models = {
        device: {w.name for w in (*scale.step_models, *scale.pass_models)}
        for device in ("cpu", "cuda")
        for scale in (scale_for(device, quick=False),)
    }
    reached = {
        id(target_of(measurement(mode, model=model, quantity=quantity, setting="10 classes"), device))
        for device in models
        for mode in MODES
        for model in models[device]
        for quantity in MEASURED_ON
    }
    assert [target.what for target in TARGETS if id(target) not in reached] == []


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
