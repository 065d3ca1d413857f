"""Kronecker factors count each sample once, whatever the memory, and leave out those that do not count."""

import gc

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import TensorDataset

from clreg_plugins import fisher_diagonal, kronecker_factors
from clreg_plugins.importance.engine.factors import WEIGHT_SHARING
from tests import oracles
from tests.importance import models
from tests.importance.cases import CASES
from tests.importance.test_kronecker_factors import assert_factors, measure


def tokens_model():
    return models.Calls(
        lambda self, x: self.head(self.table(x).tanh()),
        table=nn.Embedding(7, 4),
        head=nn.Linear(4, 3),
    ).double()


@pytest.mark.parametrize("variant", ["exact", "predicted", "empirical"])
@pytest.mark.parametrize("sharing", WEIGHT_SHARING)
def test_positions_and_samples_that_do_not_count(variant, sharing):
    """G has the positions that count; A every position of a sample that has one. Samples without are left out."""
    model, x = tokens_model(), torch.randint(0, 7, (5, 3))
    y = torch.tensor([[0, 1, 2], [-1, -1, -1], [-1, 2, -1], [1, -1, 0], [-1, -1, -1]])
    expected = oracles.factors(
        model,
        lambda m, n: m(x[n : n + 1])[0],
        len(x),
        lambda z, n: oracles.scored_positions(z, variant, y[n], -1),
        ("table", "head"),
        sharing=sharing,
    )
    options = {"variant": variant, "class_dim": -1, "ignore_index": -1, "weight_sharing": sharing}
    for batch_size in (5, 2):
        found = kronecker_factors(model, TensorDataset(x, y), batch_size=batch_size, **options)
        assert_factors(found, expected, 1e-10)


def test_the_labels_drawn_are_those_of_the_diagonal_whatever_the_memory():
    """Also beside samples that do not count, for which labels are drawn all the same."""
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double(), torch.randn(12, 3).double()
    y = torch.where(torch.arange(12) % 3 == 1, -100, 0)
    options = {"variant": "sample", "draws": 2, "seed": 3}
    diagonal = fisher_diagonal(model, TensorDataset(x, y), **options)
    for max_bytes in (2**30, 1):
        found = kronecker_factors(model, TensorDataset(x, y), max_bytes=max_bytes, **options)
        for name, layer in found.items():  # the first input is the bias's 1
            drawn = layer.outputs[0].diagonal()
            torch.testing.assert_close(drawn, diagonal[f"{name}.bias"], msg=f"{name} under {max_bytes} bytes")


@pytest.mark.parametrize("case", ["mlp", "conv2d", "transformer", "embedding", "multi-head, mixed tasks"])
def test_the_memory_bound_changes_no_number(case):
    whole, piecewise = (measure(case, "sample", max_bytes=bound) for bound in (2**30, 1))
    expected = {name: layer[2:] for name, layer in whole.items()}
    assert set(piecewise) == set(expected)
    for name, layer in expected.items():
        torch.testing.assert_close(piecewise[name][2:], layer)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that an operation gives."""

    nbytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        found = (t for t in tree_leaves(result) if isinstance(t, torch.Tensor))
        self.nbytes = max(self.nbytes, *(t.numel() * t.element_size() for t in found), 0)
        return result


def test_patches_keep_to_the_bound():
    """All patches at once take 72 inputs × 3,600 positions × 16 samples, 16.6 MB."""
    model = nn.Sequential(nn.Conv2d(8, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    data, bound = TensorDataset(torch.randn(16, 8, 62, 62), torch.arange(16) % 2), 2**24
    with Largest() as largest:
        kronecker_factors(model, data, max_bytes=bound)
    assert largest.nbytes <= bound / 4, f"a tensor of {largest.nbytes} bytes"


def test_out_of_memory_counts_no_sample_twice():
    """Once layers are trusted and pieces large: before anything of one is added, and after a stretch of it was."""
    model, x, y = CASES["mlp"].model().double(), torch.randn(40, 5).double(), torch.arange(40) % 3
    y[12] = -100
    refused = []

    def out_of_memory(gradient):
        if len(gradient) > 10:
            refused.append(len(gradient))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def forward(model, x, _labels):
        z = model(x) + 0
        if z.requires_grad:
            z.register_hook(out_of_memory)
        return z

    options = {"variant": "sample", "batch_size": 40}
    plain = kronecker_factors(model, TensorDataset(x, y), **options)
    halved = kronecker_factors(model, TensorDataset(x, y), forward=forward, **options)
    assert refused == [27, 13], f"stretches out of memory: {refused}"
    for name, layer in plain.items():
        torch.testing.assert_close(halved[name][2:], layer[2:])


def test_many_stretches_of_samples_that_do_not_count_hold_the_factors_once():
    """Every second sample counts: sums of 64 stretches at once would be 64 times the factors."""
    model, n = nn.Linear(300, 2), 128
    data = TensorDataset(torch.randn(n, 300), torch.where(torch.arange(n) % 2 == 0, 0, -100))
    alive, factor = [], (1, 301, 301)

    class Living(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if function is torch.ops.aten.baddbmm_.default and result.shape == factor:
                alive.append(living(factor))
            return result

    with Living():
        kronecker_factors(model, data, batch_size=n)
    assert len(alive) == n // 2
    assert max(alive) <= 4, f"up to {max(alive)} tensors of the size of A at once"


def living(shape):
    return sum(type(thing) is torch.Tensor and thing.shape == shape for thing in gc.get_objects())
