"""Samples of a batch that act on each other have no gradient of their own: refused, in every precision."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from clreg_plugins import LayerRule, fisher_diagonal, register_layer_rule
from clreg_plugins.importance.engine.layer_rules import LinearRule, registry
from tests.kinds.comparison import assert_right, expected


class Centred(nn.Module):
    """Takes half of the batch's mean away."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = self.first(x)
        return self.second((h - 0.5 * h.mean(0)).tanh())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("samples", [2, 3, 24])
def test_a_mean_over_the_batch_is_refused(dtype, samples):
    torch.manual_seed(0)
    model, x = Centred().to(dtype), 2 * torch.randn(samples, 6).to(dtype)
    with pytest.raises(ValueError, match="mixes the samples of a batch"):
        fisher_diagonal(model, TensorDataset(x))


class Masked(nn.Module):
    """With -inf for classes that are not in use, and the batch's mean taken away by a parameter that no rule covers."""

    def __init__(self, mixes):
        super().__init__()
        self.gain, self.head, self.mixes = nn.Parameter(torch.ones(6)), nn.Linear(6, 4), mixes

    def forward(self, x):
        h = (x - x.mean(0) if self.mixes else x) * self.gain
        return self.head(h).masked_fill(torch.tensor([False, False, True, True]), -torch.inf)


@pytest.mark.parametrize("path", ["auto", "one_at_a_time"])
def test_infinite_masks_hide_no_mixing(path):
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(12, 6))
    with pytest.raises(ValueError, match="mixes the samples of a batch"):
        fisher_diagonal(Masked(mixes=True), data, path=path)
    model = Masked(mixes=False).double()
    data = TensorDataset(torch.randn(12, 6).double())
    assert_right(fisher_diagonal(model, data, path=path), expected(model, data.tensors[0], "exact"))


class CentredInputs(nn.Module):
    """With a head that is of no use, so that training mode is tried, which needs eight samples."""

    def __init__(self):
        super().__init__()
        self.head, self.spare = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        if self.training and len(x) < 8:
            raise ValueError("too few samples")
        return self.head(x - x.mean(0))


def test_what_training_mode_needs_does_not_hide_the_mixing_of_eval_mode():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="mixes the samples of a batch"):
        fisher_diagonal(CentredInputs(), TensorDataset(2 * torch.randn(24, 6)))


class WithStates(nn.Module):
    """Holds a state for each sample of a batch of eight, so that it runs on whole batches alone."""

    def __init__(self, mixes):
        super().__init__()
        self.first, self.second, self.mixes = nn.Linear(6, 5), nn.Linear(5, 3), mixes
        self.register_buffer("states", torch.linspace(-1, 1, 40).view(8, 5))

    def forward(self, x):
        h = self.first(x) + self.states
        return self.second((h - h.mean(0) if self.mixes else h).tanh())


@pytest.mark.parametrize("path", ["auto", "one_at_a_time"])
def test_a_model_of_whole_batches_may_not_mix_them_either(path):
    torch.manual_seed(0)
    data = DataLoader(TensorDataset(torch.randn(16, 6)), batch_size=8)
    with pytest.raises(ValueError, match="mixes the samples of a batch"):
        fisher_diagonal(WithStates(mixes=True), data, path=path)
    assert fisher_diagonal(WithStates(mixes=False), data, path=path)["first.weight"].any()


class Dispatched(nn.Module):
    """Tokens are put into as many rows as there are samples, by a product with a matrix of places."""

    def __init__(self, spelling):
        super().__init__()
        self.layer, self.head, self.spelling = nn.Linear(2, 2), nn.Linear(2, 2), spelling

    def forward(self, x):
        flat = x.flatten(0, 1)
        real = (flat != 0).any(-1)
        place = (real.long().cumsum(0) - 1).clamp(min=0)
        dispatch = F.one_hot(place, max(2, len(x))).to(x) * real.unsqueeze(1)
        if self.spelling == "einsum":
            h = self.layer(torch.einsum("tr,td->rd", dispatch, flat)).tanh()
        elif self.spelling == "tensordot":
            h = self.layer(torch.tensordot(dispatch, flat, dims=([0], [0]))).tanh()
        else:
            h = self.layer(dispatch.T @ flat).tanh()
        return self.head((dispatch @ h).view(*x.shape[:2], 2).sum(1))


@pytest.mark.parametrize("spelling", ["@", "einsum", "tensordot"])
def test_rows_placed_by_a_product(spelling):
    torch.manual_seed(0)
    model, x = Dispatched(spelling).double(), torch.randn(16, 2, 2).double()
    x[:8, 1] = 0  # one token a sample at first; then two, or none
    x[9::2] = 0
    assert_right(fisher_diagonal(model, TensorDataset(x)), expected(model, x))


@pytest.mark.parametrize("cut", [lambda t: t[:, :-1], lambda t: t[:, 1:].unsqueeze(-1)[..., 0]])
def test_slices_of_tokens_move_no_row(cut, monkeypatch):
    """A static slice of integer inputs is not routing: no piece is run again in halves."""

    class Sliced(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, t):
            return self.head(self.table(cut(t)).mean(1))

    from clreg_plugins.importance.engine.forward_pass import ForwardPass

    seen, run = [], ForwardPass.__call__

    def noting(self, batch, record=False):
        z = run(self, batch, record)
        seen.append(self.by_data)
        return z

    monkeypatch.setattr(ForwardPass, "__call__", noting)
    fisher_diagonal(Sliced(), TensorDataset(torch.randint(0, 9, (20, 6))))
    assert not any(seen)


def test_a_subclass_of_a_rule_is_used_as_it_is_checked(monkeypatch):
    """What is verified is what computes: a rule for a layer that scales its input, derived from that of Linear."""

    class Scaling(nn.Linear):
        def forward(self, x):
            return super().forward(3 * x)

    class ScalingRule(LinearRule):
        def moments(self, module, a, gs, power, max_bytes):
            return super().moments(module, 3 * a, gs, power, max_bytes)

    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    register_layer_rule(Scaling, ScalingRule())
    torch.manual_seed(0)
    model, x = nn.Sequential(Scaling(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(12, 4)
    got = fisher_diagonal(model, TensorDataset(x))
    assert_right(got, expected(model, x))
    assert got.paths["0.weight"] == "rule"


def test_a_rule_that_raises_is_named(monkeypatch):
    class Broken(LayerRule):
        def gradients(self, module, prepared, g):
            return {"weight": torch.bmm(g, prepared)}

    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    register_layer_rule(nn.Linear, Broken())
    with pytest.raises(RuntimeError, match=r"the rule Broken for 0\.weight, 0\.bias raised"):
        fisher_diagonal(nn.Sequential(nn.Linear(4, 3)), TensorDataset(torch.randn(6, 4)))
