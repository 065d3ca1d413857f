"""The stages of a pass over convolutions: they are what they are called, and their sum is the bare pass."""

import time

import pytest
import torch
from torch import nn

from study.bench.stages import BARE, OF_TRAINING, PRODUCTS, SHARE, STAGES, fastest, measure_stages, recorded
from study.bench.stages import per_sample as gradients_of_samples
from study.bench.workloads import Workload


def convolutions(classes):
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, stride=2, groups=2),
        nn.Flatten(),
        nn.Linear(36, classes),
    )


SMALL = Workload("small", convolutions, (2, 8, 8), batch=16)


@pytest.mark.parametrize("block", [2, 5])
@pytest.mark.parametrize("product", PRODUCTS)
def test_per_sample_gradients_are_autograds(product, block):
    model, (inputs, _) = SMALL.model(3, torch.device("cpu")), SMALL.images(5, 3, torch.device("cpu"))
    _, outputs, layers = recorded(model, inputs, 2)
    assert [layer.module for layer in layers] == [model[0], model[2]]
    for layer, output in zip(layers, outputs, strict=True):
        last = gradients_of_samples(layer, product, block)  # of the last block
        found = last.transpose(1, 2).reshape(len(last), 2, *layer.module.weight.shape)
        for sample, of_sample in enumerate(found, start=len(inputs) - len(last)):
            for cotangent in range(2):
                g = torch.zeros_like(output)
                g[sample] = layer.gradients[sample, cotangent]
                (expected,) = torch.autograd.grad(output, layer.module.weight, g, retain_graph=True)
                torch.testing.assert_close(of_sample[cotangent], expected, rtol=1e-4, atol=1e-4)


def test_a_bare_pass_is_the_sum_of_its_stages():
    found = list(measure_stages(SMALL, 3, rounds=2, samples=64))
    for computes in ("exact Fisher", "empirical Fisher"):
        shares = {each.mode: each for each in found if each.setting == f"{computes}, 3 classes"}
        assert list(shares) == [*STAGES, OF_TRAINING]
        assert {each.quantity for each in shares.values()} == {SHARE}
        assert all(value > 0 for each in shares.values() for value in each.values)
        (bare,) = (each for each in found if (each.mode, each.quantity) == (computes, BARE))
        sums = [sum(parts) for parts in zip(*(shares[stage].values for stage in STAGES), strict=True)]
        assert bare.values == pytest.approx(sums)
        assert not bare.ours, "what a machine does is no regression of ours"


def test_the_way_that_takes_least_is_chosen():
    def slow():
        time.sleep(0.01)

    def fast():
        pass

    assert fastest([slow, fast, slow]) is fast
