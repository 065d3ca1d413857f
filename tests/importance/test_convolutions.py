"""The two products that give a convolution's per-sample weight gradients, compared with autograd."""

import pytest
import torch
from torch import nn

from clreg_plugins import fisher_diagonal
from clreg_plugins.importance.engine.layer_rules import ConvRule, rule_for
from clreg_plugins.importance.engine.layer_rules.convolution import MANY_POSITIONS
from tests.importance.models import conv2d_at_many_positions

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

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


def layer_and_rule(name, dtype):
    layer, shape = LAYERS[name]
    layer = layer.to(dtype)
    return layer, shape, rule_for(layer)


@pytest.fixture(params=["by_groups", "by_patches"])
def product(request, monkeypatch):
    monkeypatch.setattr(ConvRule, "_has_kernel", staticmethod(lambda *_: request.param == "by_groups"))
    return request.param


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", LAYERS)
def test_per_sample_gradients_are_autograds(product, name, dtype):
    layer, shape, rule = layer_and_rule(name, dtype)
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, *shape, generator=generator, dtype=dtype)
    output = layer(a)
    g = torch.randn(3, 2, *output.shape[1:], generator=generator, dtype=dtype)
    found = rule.gradients(layer, rule.prepare(layer, a), g)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for parameter, p in layer.named_parameters():
        for n in range(3):
            for k in range(2):
                (expected,) = torch.autograd.grad(output[n], p, g[n, k], retain_graph=True)
                difference = (found[parameter][n, k] - expected).abs().max() / expected.abs().max()
                assert difference <= tolerance, f"{name}: {parameter} is {difference:.1e} off"


def test_the_product_depends_on_positions_channels_type_and_device(monkeypatch):
    few, many = torch.zeros(1, 16, MANY_POSITIONS - 1), torch.zeros(1, 16, 2, MANY_POSITIONS // 2)
    layer, odd, narrow = nn.Conv2d(8, 16, 3), nn.Conv2d(16, 24, 3, groups=2), nn.Conv2d(14, 16, 3, groups=2)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert not ConvRule._has_kernel(nn.Conv1d(8, 16, 3), few)
    assert ConvRule._has_kernel(layer, many)
    assert not ConvRule._has_kernel(odd, many)
    assert not ConvRule._has_kernel(narrow, many)
    assert not ConvRule._has_kernel(layer, many.double())
    assert not ConvRule._has_kernel(layer, many.to("meta"))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not ConvRule._has_kernel(layer, many)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_moments_do_not_depend_on_the_memory_that_they_may_take(product, name, power):
    layer, shape, rule = layer_and_rule(name, torch.float64)
    a = torch.rand(5, *shape, dtype=torch.float64)
    gs = [torch.randn_like(layer(a)).detach() for _ in range(3)]
    whole, piecewise = (rule.moments(layer, a, gs, power, max_bytes) for max_bytes in (2**30, 1))
    for parameter in dict(layer.named_parameters()):
        torch.testing.assert_close(piecewise[parameter], whole[parameter])


@pytest.mark.parametrize("name", LAYERS)
def test_scratch_is_that_of_input_patches_output_gradients_and_gradient(product, name):
    layer, shape, rule = layer_and_rule(name, torch.float32)
    a = torch.rand(2, *shape)
    g = torch.zeros_like(layer(a))
    padded = torch.nn.functional.pad(a, layer._reversed_padding_repeated_twice)[0].numel()
    patches = layer.in_channels * torch.Size(layer.kernel_size).numel() * g[0, 0].numel()
    entries = padded + layer.weight.numel() + 2 * g[0].numel() + (patches if product == "by_patches" else 0)
    assert rule.bytes_per_sample(layer, a, g) == 4 * entries


def test_in_single_precision_the_kernel_passes_the_check_against_autograd():
    model = conv2d_at_many_positions()
    for layer, space in ((model[0], (24, 14)), (model[2], (22, 7))):
        assert ConvRule._has_kernel(layer, torch.zeros(1, 16, *space)) == torch.backends.mkldnn.is_available()
    found = fisher_diagonal(model, torch.rand(9, 8, 24, 14), variant="exact")
    assert set(found.paths.values()) == {"rule"}


def test_a_convolution_that_no_sample_of_a_batch_reaches_has_importance_zero():
    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.common, self.branch = nn.Linear(16, 16), nn.Conv1d(1, 2, 3, padding=1)

        def forward(self, x):
            h = self.common(x)
            chosen = x[:, 0] > 0
            return h[:, :4].index_add(0, chosen.nonzero().flatten(), self.branch(h[chosen].unsqueeze(1))[:, 0, :4])

    model = Routed()
    x, y = -torch.rand(6, 16), torch.zeros(6, dtype=torch.long)
    found = fisher_diagonal(model, torch.utils.data.TensorDataset(x, y), variant="exact")
    assert found["common.weight"].any()
    for name in ("branch.weight", "branch.bias"):
        assert not found[name].any()
        assert found.paths[name] == "rule"
