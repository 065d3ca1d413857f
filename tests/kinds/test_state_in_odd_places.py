"""State that a pass must leave as it was, or get past, where it is not looked for first."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, TensorDataset

from clreg_plugins import fisher_diagonal
from clreg_plugins.importance.engine import snapshot
from tests.kinds.comparison import assert_right, expected

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))


def test_parameters_within_one_flat_tensor():
    """Their memory begins anywhere."""
    model = small()
    vector_to_parameters(parameters_to_vector(model.parameters()).detach(), model.parameters())
    assert_right(fisher_diagonal(model, TensorDataset(X)), expected(model, X))


def test_gradients_survive_an_error_while_the_state_is_noted(monkeypatch):
    model = small()
    model(X).sum().backward()
    gradients = [p.grad for p in model.parameters()]
    noted = snapshot._TensorState.__init__

    def failing(self, tensor, *args):
        if tensor is model[2].bias:
            raise MemoryError("no room for a copy")
        noted(self, tensor, *args)

    monkeypatch.setattr(snapshot._TensorState, "__init__", failing)
    with pytest.raises(MemoryError):
        fisher_diagonal(model, TensorDataset(X))
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))


def test_all_is_put_back_though_a_large_frozen_parameter_was_written_to():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.large = nn.Parameter(torch.zeros(2**20), requires_grad=False)
            self.net, self.also = small(), nn.Parameter(torch.ones(3))

        def forward(self, x):
            self.large.data += 1
            self.also.data *= 2
            return self.net(x) * self.also

    model = Writes()
    model.also.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match=r"a frozen parameter .* was written to"):
        fisher_diagonal(model, TensorDataset(X), max_bytes=2**20)
    assert torch.equal(model.also, torch.ones(3))
    assert model.also.grad is not None


def test_hooks_that_a_forward_registers_on_its_parameters():
    class Registers(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.scale = small(), nn.Parameter(torch.ones(3))

        def forward(self, x):
            if self.scale.requires_grad:
                self.scale.register_hook(lambda g: g)
            return self.net(x) * self.scale

    model = Registers()
    kept = model.scale.register_hook(lambda g: g)
    fisher_diagonal(model, TensorDataset(X))
    assert list(model.scale._backward_hooks) == [kept.id]


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="this torch has the old flags")
def test_a_precision_that_operations_inherit_is_still_inherited():
    before = torch.backends.fp32_precision
    try:
        torch.backends.fp32_precision = "tf32"
        fisher_diagonal(small(), TensorDataset(X))
        assert torch.backends.mkldnn.matmul.fp32_precision == "tf32"
        torch.backends.fp32_precision = "ieee"
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    finally:
        torch.backends.fp32_precision = before


def test_a_sparse_buffer():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.register_buffer("mix", torch.eye(3).to_sparse())

        def forward(self, x):
            return torch.sparse.mm(self.mix, self.net(x).T).T

    model = Graph()
    assert_right(
        fisher_diagonal(model, TensorDataset(X)),
        {f"net.{name}": value for name, value in expected(model.net, X).items()},
    )


def test_packed_sequences_made_in_inference_mode():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.gru, self.head = nn.GRU(3, 4), nn.Linear(4, 2)

        def forward(self, packed):
            return self.head(self.gru(packed)[1][0])

    model = Packed()
    with torch.inference_mode():
        packed = pack_sequence([torch.randn(3, 3), torch.randn(2, 3)])
    loader = DataLoader([packed], batch_size=None)
    got = fisher_diagonal(model, loader)
    assert got["gru.weight_ih_l0"].any()
    assert_right(got, fisher_diagonal(model, loader, path="one_at_a_time"), 1e-4)


def test_a_large_array_on_the_model_is_put_back():
    class Counts(nn.Linear):
        def __init__(self):
            super().__init__(3, 2)
            self.seen = np.zeros(2**17)

        def forward(self, x):
            self.seen[0] += 1
            return super().forward(x)

    model = Counts()
    fisher_diagonal(model, TensorDataset(X))
    assert not model.seen.any()


def test_a_norm_of_ones_own_that_derives_from_pytorchs_is_in_eval_mode_too():
    """Where eval mode has no graph, and all modules that are not PyTorch's stay in training mode."""

    class Norm(nn.BatchNorm1d):
        pass

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(3, 4), Norm(4), nn.Tanh(), nn.Linear(4, 3))

        def forward(self, x):
            z = self.net(x)
            return z if self.training else z.detach()

    model = Model()
    got = fisher_diagonal(model, TensorDataset(X))
    assert got.mode == "training"
    assert_right(got, {f"net.{name}": value for name, value in expected(model.net, X).items()})


class Exit(nn.Module):
    """A second exit that joins the output in training mode alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.early, self.late = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        h = self.body(x).tanh()
        return self.late(h) + self.early(h) if self.training else self.late(h)


def test_what_eval_mode_cuts_off_is_named():
    model = Exit()
    with pytest.warns(UserWarning, match=r"does not depend on early\.bias, early\.weight, in training mode it does"):
        got = fisher_diagonal(model, TensorDataset(X))
    assert got.mode == "eval"
    assert model.training
    assert_right(got, expected(model.eval(), X))
