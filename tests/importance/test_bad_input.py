"""Every mistake is an exception at once, which names the value and what is allowed."""

import functools
import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from clreg_plugins.importance import fisher_diagonal, mas_importance

X, Y = torch.randn(6, 3), torch.arange(6) % 2
DATA = TensorDataset(X, Y)
VARIANTS = "exact, sample, predicted, empirical, batched"


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (fisher_diagonal, {"variant": "true"}, f"variant is 'true'; allowed: {VARIANTS}"),
        (mas_importance, {"path": "fast"}, "path is 'fast'; allowed: auto, vectorised, one_at_a_time"),
        (fisher_diagonal, {"seed": 2**64}, "seed is 18446744073709551616; allowed: a whole number >= 0 and < 2**63"),
        (
            fisher_diagonal,
            {"variant": "predicted", "likelihood": "gaussian"},
            "zero under a gaussian likelihood; allowed with it: exact, sample, empirical, batched",
        ),
        (
            fisher_diagonal,
            {"distributed": True},
            "distributed is True, but torch.distributed is not initialised",
        ),
        (
            mas_importance,
            {"distributed": True},
            "distributed is True, but torch.distributed is not initialised",
        ),
    ],
)
def test_options(function, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        function(nn.Linear(3, 2), DATA, **options)


@pytest.mark.parametrize(
    ("options", "samples", "message"),
    [
        ({}, (X[:0], Y[:0]), "data is empty"),
        ({"variant": "empirical"}, (X,), "needs targets, but the data has none"),
        ({"variant": "batched"}, (X,), "needs targets, but the data has none"),
        ({"variant": "empirical"}, (X, Y + 2), "class labels range from 2 to 3; allowed: 0 to 1"),
        ({"variant": "empirical"}, (X, Y - 1), "class labels range from -1 to 0; allowed: 0 to 1"),
        ({"variant": "empirical"}, (X, Y[:, None]), "class labels have shape (6, 1), expected (6,)"),
        ({"variant": "empirical"}, (X, X), "class probabilities have shape (6, 3), but the outputs have shape (6, 2)"),
        (
            {"variant": "empirical", "likelihood": "gaussian"},
            (X, X),
            "targets have shape (6, 3), but the outputs",
        ),
        (
            {"variant": "empirical", "likelihood": "gaussian"},
            (X, X[:, 0]),
            "targets have shape (6,), but the outputs",
        ),
        (
            {"variant": "batched", "likelihood": "bernoulli"},
            (X, X),
            "targets have shape (6, 3), but the outputs",
        ),
    ],
)
def test_data(options, samples, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fisher_diagonal(nn.Linear(3, 2), TensorDataset(*samples), **options)


def test_an_empty_loader_and_unlabelled_empty_data():
    with pytest.raises(ValueError, match="data is empty"):
        mas_importance(nn.Linear(3, 2), TensorDataset(X[:0]))
    with pytest.raises(ValueError, match="data is empty"):
        mas_importance(nn.Linear(3, 2), DataLoader(TensorDataset(X[:0])))


@pytest.mark.parametrize("variant", ["exact", "sample", "predicted", "empirical"])
def test_a_categorical_likelihood_needs_a_row_of_logits(variant):
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    with pytest.raises(ValueError, match=r"outputs of shape \(samples, classes\).*got \(\d,\)"):
        fisher_diagonal(model, DATA, variant=variant)


@pytest.mark.parametrize("output", ["dict", "scalar", "fewer rows"])
def test_outputs_that_are_no_tensor_of_samples(output):
    class Model(nn.Linear):
        def forward(self, x):
            z = super().forward(x)
            return {"dict": {"z": z}, "scalar": z.sum(), "fewer rows": torch.cat((z, z))}[output]

    with pytest.raises(ValueError, match=r"the model's output is .*; an importance needs a tensor with the"):
        fisher_diagonal(Model(3, 2), DATA)


class Stream(IterableDataset):
    """Data without a length."""

    def __iter__(self):
        yield X[0], 0


@pytest.mark.parametrize("data", [Stream(), 7, None, iter([])])
def test_data_of_an_unknown_kind(data):
    with pytest.raises(TypeError, match=f"data is a {type(data).__name__}; allowed: a DataLoader, or a Dataset"):
        fisher_diagonal(nn.Linear(3, 2), data)


def test_inputs_and_targets_in_a_tuple():
    with pytest.raises(TypeError, match=r"data is a tuple of tensors, .* such as TensorDataset\(inputs, targets\)"):
        fisher_diagonal(nn.Linear(3, 3), (X, X), likelihood="gaussian")


def test_complex_outputs():
    class Complex(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1j * x[:, :1]

    with pytest.raises(
        ValueError, match='outputs are complex; allowed: real outputs, or MAS with output="squared_norm"'
    ):
        mas_importance(Complex(3, 2), DATA, output="vector")


def test_samples_that_are_no_tensors():
    loader = DataLoader([{"x": X[0]}], batch_size=1, collate_fn=lambda batch: str(batch))
    with pytest.raises(TypeError, match=r"a batch of the data is a str; allowed: a tensor, a dict.*unpack="):
        fisher_diagonal(nn.Linear(3, 2), loader)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("samples", [1, 6], ids=["one sample", "all samples"])
@pytest.mark.parametrize("variant", ["exact", "sample", "predicted", "empirical", "batched", "mas"])
def test_not_a_number_in_the_inputs(bad, samples, variant):
    """A model whose outputs are NaN has no importance, and 0 would be a lie."""
    x = X.clone()
    x[:samples] = bad
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x[:, 1:] = 0.0
    model[0].weight.data[:, 0] = 0.0  # inf * 0 = nan
    data = TensorDataset(x, Y)
    measure = mas_importance if variant == "mas" else functools.partial(fisher_diagonal, variant=variant)
    with pytest.raises(FloatingPointError, match=r"the importance of '0\.weight' holds nan; every entry must be"):
        measure(model, data)


def test_a_model_that_is_broken_says_so_itself():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        fisher_diagonal(nn.Linear(4, 2), DATA)
