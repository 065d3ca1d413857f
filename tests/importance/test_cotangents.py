"""The cotangents of the exact Fisher: the covariance of the score, by as many as its rank, whatever the logits."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from clreg_plugins.importance import fisher_diagonal
from clreg_plugins.importance.engine import pass_over_data
from clreg_plugins.importance.engine.cotangents import fisher_cotangents
from tests import oracles

MASK = -1000.0
LOGITS = {  # and how many cotangents they need: for each sample one less than it has possible labels
    "plain": ([[0.3, -1.0, 0.5, 2.0], [1.0, 0.0, 0.0, -3.0]], 3),
    "two classes": ([[0.3, -1.0], [5.0, 1.0]], 1),
    "one class": ([[0.3], [5.0]], 0),
    "masked last": ([[0.3, -1.0, MASK, MASK], [1.0, 2.0, MASK, MASK]], 1),
    "masked first and between": ([[MASK, 0.3, MASK, 2.0], [MASK, 1.0, MASK, 0.0]], 1),
    "all but one masked": ([[MASK, 0.3, MASK], [MASK, 1.0, MASK]], 0),
    "masks that differ by sample": ([[0.3, 1.0, MASK], [MASK, 2.0, 1.0]], 2),
    "saturated at each place": ([[60.0, 0.0, 0.0], [0.0, 60.0, 1.0], [0.0, 2.0, 60.0]], 2),
    "one sample certain": ([[0.0, 1.0, 2.0], [0.0, 900.0, 0.0], [900.0, 0.0, 0.0]], 2),
    "every sample certain": ([[0.0, 900.0, 0.0], [900.0, 0.0, 0.0]], 0),
    "nearly nothing left": ([[40.0, -40.0, 0.0, 20.0], [-30.0, 0.0, 30.0, 60.0]], 3),
}


def logits(name: str, dtype: torch.dtype) -> tuple[torch.Tensor, int]:
    rows, needed = LOGITS[name]
    return torch.tensor(rows, dtype=dtype), needed


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", LOGITS)
def test_their_outer_products_add_up_to_the_covariance_of_the_score(name, dtype):
    """Up to rounding of the standard deviations, however small: 1 − π is written as the sum of the others."""
    z, needed = logits(name, dtype)
    vs = list(fisher_cotangents("exact", "categorical").vectors(z, None, torch.Generator()))
    assert len(vs) == needed
    pi = z.double().softmax(dim=1)
    classes = z.shape[1]
    others = torch.stack([pi[:, [j for j in range(classes) if j != c]].sum(dim=1) for c in range(classes)], dim=1)
    covariance = -pi[:, :, None] * pi[:, None, :]
    covariance[:, range(classes), range(classes)] = pi * others
    got = sum((v.double()[:, :, None] * v.double()[:, None, :] for v in vs), torch.zeros_like(covariance))
    tiny = torch.finfo(dtype).tiny ** 0.5  # what is below is a product of probabilities that underflowed
    deviation = covariance.diagonal(dim1=1, dim2=2).sqrt()
    allowed = 200 * torch.finfo(dtype).eps * deviation[:, :, None] * deviation[:, None, :] + tiny
    worst = ((got - covariance).abs() / allowed).max().item()
    assert worst < 1, f"off by {worst:.2g} times what rounding allows"


@pytest.mark.parametrize("name", LOGITS)
def test_the_exact_fisher_of_such_logits_is_the_reference(name):
    """Logits as biases of the samples' own inputs: z = W x with x one-hot."""
    z, _ = logits(name, torch.float64)
    model = nn.Linear(len(z), z.shape[1]).double()
    with torch.no_grad():
        model.weight.copy_(z.T)
        model.bias.zero_()
    samples = (torch.eye(len(z), dtype=torch.float64), torch.zeros(len(z), dtype=torch.long))
    expected = oracles.fisher(model, samples, variant="exact", likelihood="categorical")
    oracles.assert_close(fisher_diagonal(model, TensorDataset(*samples)), expected, 1e-10)


def test_a_logit_that_is_nan_is_found():
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.bias[1] = torch.nan
    with pytest.raises(FloatingPointError, match="holds nan"):
        fisher_diagonal(model, TensorDataset(torch.randn(4, 2), torch.zeros(4, dtype=torch.long)))


def test_memory_is_planned_for_samples_less_certain_than_the_first(monkeypatch):
    """The first sample's softmax is saturated and needs no cotangent; the others need all."""
    planned = []
    plan = pass_over_data.samples_at_a_time
    monkeypatch.setattr(pass_over_data, "samples_at_a_time", lambda *args: planned.append(plan(*args)) or planned[-1])
    x = torch.randn(8, 4)
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 10))
    for first in (0.0, 1e6):
        x[0] = first
        fisher_diagonal(model, TensorDataset(x, torch.zeros(8, dtype=torch.long)), max_bytes=2**18)
    assert planned[0] == planned[1], f"pieces of {planned[0]} samples, but of {planned[1]} after a certain one"
