"""Inputs, models and criteria found by trying: each once gave a wrong number, or was refused for no reason."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from avalanche.training import Naive
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from clreg_plugins import EWCPlugin, MASPlugin, fisher_diagonal
from clreg_plugins.importance.engine.cotangents import fisher_cotangents
from tests import oracles
from tests.kinds.comparison import assert_right, expected, measure, strategy_of, stream

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(3))
Y = torch.arange(20) % 3


def mlp(*first: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*first, nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


class Shifts(nn.Module):
    """Writes into its input."""

    def forward(self, x):
        return x.sub_(1.0).mul_(2.0)


@pytest.mark.parametrize("variant", ["exact", "empirical", "batched", "mas"])
@pytest.mark.parametrize("batch_size", [1, 4, 20])
@pytest.mark.parametrize("first", [Shifts(), nn.LeakyReLU(0.1, inplace=True)], ids=["shift", "activation"])
def test_a_forward_that_writes_into_its_input(first, batch_size, variant):
    model, before = mlp(first), X.clone()
    rest = nn.Sequential(*list(model)[1:])
    clean = (X - 1) * 2 if isinstance(first, Shifts) else F.leaky_relu(X, 0.1)
    loader = DataLoader(
        [(X[i : i + batch_size], Y[i : i + batch_size]) for i in range(0, 20, batch_size)], batch_size=None
    )
    of_rest = DataLoader(TensorDataset(clean, Y), batch_size=batch_size)
    got, want = measure(model, loader, variant), measure(rest, of_rest, variant)
    assert_right({str(i): v for i, v in enumerate(got.values())}, {str(i): v for i, v in enumerate(want.values())})
    assert torch.equal(X, before), "the data has changed"


class Lengths(nn.Module):
    """Takes the mean of the first entries of each sequence; how many, a list or an array says."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(2, 3)

    def forward(self, x, lengths):
        return self.head(torch.stack([row[: int(n)].mean(0) for row, n in zip(x, lengths, strict=True)]))


@pytest.mark.parametrize(
    "kind", [list, np.array, lambda lengths: [str(n) for n in lengths]], ids=["list", "array", "words"]
)
def test_entries_of_samples_that_are_no_tensors(kind):
    x, lengths = X.view(20, 3, 2), [1 + n % 3 for n in range(20)]
    model = Lengths()
    loader = DataLoader([((x, kind(lengths)), Y)], batch_size=None)
    means = torch.stack([row[:n].mean(0) for row, n in zip(x, lengths, strict=True)])
    assert_right(fisher_diagonal(model, loader), {f"head.{n}": v for n, v in expected(model.head, means).items()})


class Pairs(nn.Module):
    """Neighbours act on each other, in front of what is trained."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        pairs = x.view(-1, 2, 6)
        return self.net((pairs - pairs.mean(1, keepdim=True)).view(-1, 6))


class BatchForgotten(nn.Module):
    """A frozen recurrent layer that takes samples for steps."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.head = nn.LSTM(6, 5).requires_grad_(False), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.lstm(x[:, None])[0][:, 0])


@pytest.mark.parametrize("kind", [Pairs, BatchForgotten])
def test_samples_that_mix_with_their_neighbours(kind):
    with pytest.raises(ValueError, match="mixes the samples"):
        fisher_diagonal(kind(), TensorDataset(X))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_forward_that_is_replaced_on_the_instance(dtype):
    model = mlp().to(dtype)
    reference = mlp()
    reference[0].weight.data *= 1.3
    reference[0].bias.data *= 1.3
    inner = model[0].forward
    model[0].forward = lambda x: 1.3 * inner(x)
    got = fisher_diagonal(model, TensorDataset(X.to(dtype)))
    want = expected(reference, X)
    want["0.weight"], want["0.bias"] = 1.69 * want["0.weight"], 1.69 * want["0.bias"]
    assert_right(got, want, 1e-4 if dtype == torch.float32 else 0.1)


def test_a_weight_of_two_layers_under_autocast():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.b.weight = self.a.weight

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                h = self.a(x).tanh()
                h = h + 0.3 * self.b(h)
            return self.head(h.float())

    got = fisher_diagonal(Tied(), TensorDataset(X))
    assert got.paths["a.weight"] != "rule"
    assert_right(got, fisher_diagonal(Tied(), TensorDataset(X), path="one_at_a_time"), 0.02)


class Recomputes(torch.autograd.Function):
    """Goes forward again in its backward pass, and writes gradients itself, as reversible networks do."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        ctx.save_for_backward(x)
        with torch.no_grad():
            return layer(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            torch.autograd.backward(ctx.layer(x), g)
        return x.grad, None


def test_gradients_that_a_backward_pass_writes_by_itself():
    class Reversible(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.hidden, self.last = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.last(Recomputes.apply(self.first(x), self.hidden).tanh())

    with pytest.raises(ValueError, match=r"writes gradients by itself.*use_reentrant=False"):
        fisher_diagonal(Reversible(), TensorDataset(X))


@pytest.mark.parametrize("gap", [0.5, 4.0, 14.0, 16.5, 30.0])
@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
@pytest.mark.parametrize("variant", ["exact", "predicted", "empirical"])
def test_confident_outputs_lose_nothing_to_cancellation(variant, likelihood, gap):
    z = torch.tensor([[gap, 0.0], [gap / 2, -gap / 2]])
    y = torch.tensor([0, 0]) if likelihood == "categorical" else torch.tensor([[1.0, 0.0], [1.0, 0.0]])

    def squares(z):
        vectors = fisher_cotangents(variant, likelihood).vectors(z, y, torch.Generator())
        return sum(v.double() ** 2 for v in vectors)

    wide = squares(z.double())
    assert (wide > 0).all()
    assert torch.allclose(squares(z), wide, rtol=1e-4, atol=0)


def test_a_criterion_that_only_derives_from_a_known_one_must_be_named():
    class Sharpened(nn.CrossEntropyLoss):
        def forward(self, z, y):
            return super().forward(4 * z, y)

    benchmark, _ = stream()
    strategy = strategy_of(mlp(), [EWCPlugin(1.0)])
    strategy._criterion = Sharpened()
    with pytest.raises(ValueError, match="likelihood="):
        strategy.train(benchmark.train_stream[0])
    assert strategy.clock.train_iterations == 0


@pytest.mark.parametrize("plugin", [EWCPlugin, MASPlugin])
def test_what_hangs_on_a_strategy_is_left_as_it_was(plugin):
    class Notes(Naive):
        def forward(self):
            self.notes["sizes"].append(len(self.mb_x))
            self.mean.mul_(0.9).add_(self.mb_x.mean())
            return super().forward()

    found = []
    for plugins in ([], [plugin(0.0)]):
        benchmark, _ = stream()
        strategy = strategy_of(mlp(), plugins, Notes)
        strategy.notes, strategy.mean = {"sizes": []}, torch.zeros(())
        torch.manual_seed(0)
        for experience in benchmark.train_stream:
            strategy.train(experience)
        found.append((strategy.notes["sizes"], float(strategy.mean)))
    assert found[0] == found[1]


class Grabs(nn.Module):
    """Looks at gradients in its forward, as explanations and energies do."""

    def __init__(self, how):
        super().__init__()
        self.net, self.how = mlp(), how

    def forward(self, x):
        h = self.net[0](x)
        if self.how == "hook":
            h.register_hook(lambda g: None)
        if self.how == "retain":
            h.retain_grad()
        if self.how == "grad":
            (g,) = torch.autograd.grad(h.square().sum(), h, create_graph=True)
            return self.net[2](g.tanh())
        return self.net[2](self.net[1](h))


@pytest.mark.parametrize("how", ["hook", "retain", "grad"])
def test_a_forward_that_asks_for_gradients(how):
    model = Grabs(how)
    want = fisher_diagonal(model, TensorDataset(X), path="one_at_a_time")
    assert_right(fisher_diagonal(model, TensorDataset(X)), want)


def test_norms_in_half_precision():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).to(torch.bfloat16)
    got = fisher_diagonal(model, TensorDataset(X.to(torch.bfloat16)))
    want = oracles.fisher(model, (X.to(torch.bfloat16),), variant="exact", likelihood="categorical")
    assert_right(got, want, 0.1)


def test_dropout_that_is_kept_on():
    model = mlp(nn.Dropout(0.5))
    model[0].train = lambda mode=True: model[0]
    got = fisher_diagonal(model, TensorDataset(X))
    assert got["1.weight"].any()
    assert got.mode == "eval"


def test_an_importance_loads_with_weights_only(tmp_path):
    got = fisher_diagonal(mlp(), TensorDataset(X))
    torch.save(got, tmp_path / "importance.pt")
    assert_right(torch.load(tmp_path / "importance.pt", weights_only=True), dict(got))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["traced", "quantised buffer"])
def test_other_modules_that_train(kind):
    if kind == "traced":
        model = torch.jit.trace(mlp(), X)
        assert fisher_diagonal(model, TensorDataset(X))["0.weight"].any()
        return
    model = mlp()
    model.register_buffer("q", torch.quantize_per_tensor(torch.ones(6), 0.1, 0, torch.quint8))
    got = fisher_diagonal(model, TensorDataset(X))
    del model.q
    assert_right(got, expected(model, X))
