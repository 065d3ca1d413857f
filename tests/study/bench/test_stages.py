"""The stages of a pass over convolutions: they do what they are called, and their sum is the bare pass."""

import time

import pytest
import torch
from torch import nn

from study.bench import stages
from study.bench.stages import (
    BACKWARD,
    BARE,
    FORWARD,
    GRADIENTS,
    OF_TRAINING,
    OVER_BARE,
    SAMPLES,
    SHARE,
    SQUARES,
    STAGES,
    WAYS,
    fastest,
    measure_stages,
    of_samples,
    recorded,
    reduced,
    stage_works,
    streamed,
)
from study.bench.timing import Turn
from study.bench.workloads import Workload


def convolutions(classes):
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 4, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2), groups=2),
        nn.Flatten(),
        nn.Linear(96, classes),
    )


CPU = torch.device("cpu")
SMALL = Workload("small", convolutions, (2, 8, 8), batch=16)


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("block", [2, 5])
@pytest.mark.parametrize("way", WAYS)
def test_per_sample_gradients_are_autograds(way, block, together):
    model, (inputs, _) = SMALL.model(3, CPU), SMALL.images(5, 3, CPU)
    _, outputs, layers = recorded(model, inputs, 2)
    assert [layer.module for layer in layers] == [model[0], model[2]]
    for layer, output in zip(layers, outputs, strict=True):
        found = iter(of_samples(layer, way, block, together))
        for start in range(0, 5, block):
            samples = torch.cat([next(found) for _ in range(2 // together)], dim=1)
            assert samples.shape == (min(block, 5 - start), 2, *layer.module.weight.shape)
            for sample, of_sample in enumerate(samples, start=start):
                for cotangent in range(2):
                    g = torch.zeros_like(output)
                    g[sample] = layer.gradients[sample, cotangent]
                    (expected,) = torch.autograd.grad(output, layer.module.weight, g, retain_graph=True)
                    torch.testing.assert_close(of_sample[cotangent], expected, rtol=1e-4, atol=1e-4)
        assert next(found, None) is None


@pytest.mark.parametrize("add", [streamed, reduced])
def test_squares_are_summed_over_samples_and_cotangents(add):
    gradients, total = torch.randn(3, 2, 4, 5), torch.ones(4, 5)
    add(total, gradients)
    torch.testing.assert_close(total, 1 + sum(g.square() for of_sample in gradients for g in of_sample))


def test_every_stage_does_all_samples_under_all_cotangents(monkeypatch):
    seen = dict.fromkeys(("vs", "gradients", "squares", "batches"), 0)

    def counting(name, amount, function):
        def call(*args, **options):
            seen[name] += amount(*args)
            return function(*args, **options)

        return call

    def of_way(way):
        return counting("gradients", lambda module, a, g: g.shape[0] * g.shape[1], way)

    monkeypatch.setattr(stages, "WAYS", tuple(map(of_way, WAYS)))  # whichever is taken
    for name in ("streamed", "reduced"):
        function = getattr(stages, name)
        monkeypatch.setattr(stages, name, counting("squares", lambda total, g: g.shape[0] * g.shape[1], function))
    monkeypatch.setattr(
        stages,
        "conv2d_weight",
        counting("batches", lambda a, shape, *rest: int(len(a) == SAMPLES), stages.conv2d_weight),
    )
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", counting("vs", lambda z, outputs, v: len(v) * len(outputs), grad))
    works = stage_works(SMALL, 3, 2)

    def amount(stage, name):
        seen[name] = 0
        works[stage]()
        return seen[name]

    assert amount(BACKWARD, "vs") == 2 * SAMPLES * 2  # cotangents, and layers
    assert amount(GRADIENTS, "gradients") == 2 * SAMPLES * 2
    assert amount(SQUARES, "squares") == 2 * SAMPLES * 2
    assert amount(OF_TRAINING, "batches") == 2 * 2
    assert sum(len(piece) for piece in works[FORWARD].args[1]) == SAMPLES


def test_a_bare_pass_is_the_sum_of_its_stages_and_ours_is_divided_by_it(monkeypatch):
    """With a clock by which a stage takes 1, 2, 3… seconds, an epoch over 128 samples 100 and a pass of ours 50."""
    asked = []

    def turns(given: dict[str, Turn], rounds, clock):
        asked.append(given)
        taken = {"epoch": 100.0, OVER_BARE: 50.0} | {stage: i + 1.0 for i, stage in enumerate([*STAGES, OF_TRAINING])}
        return {name: [taken[name]] * rounds for name in given}

    works = []
    wanted = stages.stage_works
    monkeypatch.setattr(stages, "stage_works", lambda *args: works.append(args) or wanted(*args))
    monkeypatch.setattr(stages, "interleave", turns)
    found = list(measure_stages(SMALL, 3, rounds=2, samples=128))
    assert [cotangents for *_, cotangents in works] == [2, 1]  # of an exact Fisher one less than classes
    for given in asked:
        times = {stage: given[stage].amount / (SAMPLES / 128) for stage in [*STAGES, OF_TRAINING]}
        assert all(each >= 1 and each == int(each) for each in times.values()), "whole repetitions of half the samples"
        assert given["epoch"].amount == given[OVER_BARE].amount == 1
    for computes in ("exact Fisher", "empirical Fisher"):
        shares = {each.mode: each for each in found if each.setting == f"{computes}, 3 classes"}
        assert {mode: each.values for mode, each in shares.items()} == {
            stage: pytest.approx(((i + 1) / 100,) * 2) for i, stage in enumerate([*STAGES, OF_TRAINING])
        }
        assert {each.quantity for each in shares.values()} == {SHARE}
        bare, over_bare = (each for each in found if each.mode == computes)
        assert (bare.quantity, bare.values, bare.ours) == (BARE, pytest.approx((0.1, 0.1)), False)
        assert (over_bare.quantity, over_bare.values, over_bare.ours) == (OVER_BARE, (5.0, 5.0), True)


def test_a_pass_of_ours_takes_part():
    found = [each for each in measure_stages(SMALL, 3, rounds=1, samples=64) if each.quantity == OVER_BARE]
    assert [each.mode for each in found] == ["exact Fisher", "empirical Fisher"]
    assert all(each.median > 0 for each in found)


def test_the_way_that_takes_least_is_chosen():
    def slow():
        time.sleep(0.01)

    def fast():
        pass

    assert fastest([slow, fast, slow]) is fast
