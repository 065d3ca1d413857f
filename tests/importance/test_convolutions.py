"""The two products that a convolution's per-sample weight gradients come from, beside autograd's."""

import pytest
import torch
from torch import nn

from clreg_plugins.importance.layers import MANY_POSITIONS, ConvRule, rule_for

LAYERS = {
    "1d, strided and reflected": (
        nn.Conv1d(4, 6, 3, stride=2, groups=2, dilation=2, padding=3, padding_mode="reflect"),
        (4, 261),
    ),
    "2d, grouped, circular and without bias": (
        nn.Conv2d(4, 6, 3, groups=2, dilation=(1, 2), padding="same", padding_mode="circular", bias=False),
        (4, 14, 10),
    ),
    "2d, stride that leaves a rest": (nn.Conv2d(3, 5, (3, 2), stride=(2, 3), padding=(1, 0)), (3, 26, 33)),
    "2d, even kernel, same": (nn.Conv2d(2, 3, (2, 4), padding="same"), (2, 12, 13)),
    "2d, depthwise": (nn.Conv2d(3, 6, 3, groups=3, padding=1), (3, 12, 12)),
    "3d": (nn.Conv3d(2, 4, (2, 3, 1), stride=(1, 2, 1), padding=(0, 1, 1), groups=2, dilation=(2, 1, 1)), (2, 6, 9, 7)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("product", ["by_groups", "by_patches"])
@pytest.mark.parametrize("name", LAYERS)
def test_per_sample_gradients_are_autograds(monkeypatch, name, product):
    layer, shape = LAYERS[name]
    layer = layer.double()
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, *shape, generator=generator, dtype=torch.float64)
    output = layer(a)
    g = torch.randn(3, 2, *output.shape[1:], generator=generator, dtype=torch.float64)
    monkeypatch.setattr(ConvRule, "_many_positions", staticmethod(lambda _: product == "by_groups"))
    rule = rule_for(layer)
    found = rule.gradients(layer, rule.prepare(layer, a), g)
    for parameter, p in layer.named_parameters():
        for n in range(3):
            for k in range(2):
                (expected,) = torch.autograd.grad(output[n], p, g[n, k], retain_graph=True)
                torch.testing.assert_close(found[parameter][n, k], expected, msg=lambda text: f"{name}: {text}")


def test_the_product_depends_on_the_positions_and_the_device():
    few, many = torch.zeros(1, 1, MANY_POSITIONS - 1), torch.zeros(1, 1, 2, MANY_POSITIONS // 2)
    assert not ConvRule._many_positions(few)
    assert ConvRule._many_positions(many)
    assert not ConvRule._many_positions(many.to("meta"))


@pytest.mark.parametrize("name", LAYERS)
def test_moments_do_not_depend_on_the_memory_that_they_may_take(name):
    layer, shape = LAYERS[name]
    layer = layer.double()
    a = torch.rand(5, *shape, dtype=torch.float64)
    gs = [torch.randn_like(layer(a)).detach() for _ in range(3)]
    rule = rule_for(layer)
    whole, piecewise = (rule.moments(layer, a, gs, 2, max_bytes) for max_bytes in (2**30, 1))
    for parameter in dict(layer.named_parameters()):
        torch.testing.assert_close(piecewise[parameter], whole[parameter])
