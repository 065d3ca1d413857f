"""Kronecker factors count each sample once, whatever the memory, and leave out those that do not count."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, TensorDataset

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
    """Once layers are trusted and pieces large."""
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
    assert refused == [40, 20], f"pieces out of memory: {refused}"
    for name, layer in plain.items():
        torch.testing.assert_close(halved[name][2:], layer[2:])


class Positions(nn.Module):
    """A layer on a table of positions, whose one row is no sample, before one on samples."""

    def __init__(self):
        super().__init__()
        self.p, self.h = nn.Linear(2, 2), nn.Linear(2, 3)
        self.register_buffer("table", torch.randn(1, 3, 2))

    def forward(self, x):
        return self.h((x + self.p(self.table)).tanh()).mean(dim=1)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 2}, {"max_bytes": 1}])
def test_a_layer_on_what_is_no_sample_has_no_factors_whatever_the_size_of_pieces(options):
    """One sample alone does not tell it from others."""
    torch.manual_seed(0)
    model, x = Positions().double(), torch.randn(8, 3, 2).double()
    for y in (torch.arange(8) % 3, torch.tensor([0, -100, 2, 0, -100, 2, 0, 1])):
        plain, found = (kronecker_factors(model, TensorDataset(x, y), **o) for o in ({"batch_size": 8}, options))
        assert list(plain) == list(found) == ["h"]
        torch.testing.assert_close(found["h"][2:], plain["h"][2:])
        oracles.assert_close(found.diagonal, plain.diagonal, 1e-10, "the diagonal")


def test_a_model_that_runs_on_whole_batches_alone_may_have_samples_that_do_not_count():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(4, 3)
            self.register_buffer("state", torch.zeros(16, 4))

        def forward(self, x):
            return self.l(x + self.state)

    torch.manual_seed(0)
    model, x, y = Whole().double(), torch.randn(16, 4).double(), torch.arange(16) % 3
    y[::3] = -100
    found = kronecker_factors(model, DataLoader(TensorDataset(x, y), 16))["l"]
    part = nn.Sequential(OrderedDict(l=model.l))
    expected = kronecker_factors(part, TensorDataset(x[y >= 0], y[y >= 0]))["l"]
    torch.testing.assert_close(found[2:], expected[2:])
