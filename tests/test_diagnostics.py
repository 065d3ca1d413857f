import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from clreg_plugins import agreement, fisher_diagonal, quadratic_fit


def one(*values: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.tensor(values)}


def test_agreement_by_hand():
    """Ranks (1, 2.5, 2.5, 4) against (2, 1, 3, 4): Σ of products of deviations 3, of squares 4.5 and 5."""
    result = agreement(one(1, 2, 2, 5), one(2, 1, 3, 4))
    expected = {
        "spearman": 3 / math.sqrt(4.5 * 5),
        "pearson": 5 / math.sqrt(9 * 5),
        "cosine": 30 / math.sqrt(34 * 30),
        "ratio": 1.0,
    }
    for name, value in expected.items():
        assert getattr(result, name) == pytest.approx(value, abs=1e-12), (name, result)
    assert result.n == 4


def test_agreement_is_that_of_scipy_over_all_parameters_together():
    a = {"weight": torch.rand(30, 20), "bias": torch.rand(20).round(decimals=1)}
    b = {"bias": torch.rand(20).round(decimals=1), "weight": a["weight"] ** 3 + torch.rand(30, 20)}
    x, y = (np.concatenate([side[name].double().flatten() for name in ("weight", "bias")]) for side in (a, b))
    result = agreement(a, b)
    assert result.spearman == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert result.pearson == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert result.cosine == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)), abs=1e-12)
    assert result.ratio == pytest.approx(x.sum() / y.sum(), rel=1e-12)
    assert result.n == 620


@pytest.mark.parametrize("scale", [1.0, 3.0, 1e-30])
def test_a_multiple_agrees_but_for_its_ratio(scale: float):
    a = {"weight": torch.rand(50, dtype=torch.float64)}
    result = agreement({"weight": scale * a["weight"]}, a)
    assert (result.spearman, result.pearson, result.cosine) == pytest.approx((1, 1, 1), abs=1e-12), result
    assert result.ratio == pytest.approx(scale), result


@pytest.mark.parametrize("constant", [0.1, 0.0])
def test_what_is_undefined_is_nan(constant: float):
    result = agreement(one(1, 2, 3), one(constant, constant, constant))
    assert math.isnan(result.spearman), result
    assert math.isnan(result.pearson), result
    assert math.isnan(result.cosine) == math.isnan(result.ratio) == (constant == 0), result


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ({**one(1), "bias": torch.ones(1)}, one(1), "b has no 'bias', but a has"),
        (one(1), {**one(1), "bias": torch.ones(1)}, "a has no 'bias', but b has"),
        (one(1, 2), one(1), r"'weight' has shape \(2,\) in a, but \(1,\) in b"),
        (one(1, 2), one(1, math.nan), r"b\['weight'\] holds nan"),
        ({}, {}, "a has no entries"),
    ],
)
def test_what_cannot_be_compared_is_named(a, b, said):
    with pytest.raises(ValueError, match=said):
        agreement(a, b)


# ---------------------------------------------------------------------- quadratic_fit


@pytest.fixture
def orthogonal() -> tuple[nn.Linear, TensorDataset]:
    """Linear-Gaussian with orthogonal inputs: the Hessian is diagonal, and the Fisher is the Hessian."""
    inputs = torch.linalg.qr(torch.randn(12, 4, dtype=torch.float64)).Q * torch.tensor([1.0, 2.0, 3.0, 4.0])
    model = nn.Linear(4, 3, bias=False).double()
    noise = torch.randn(12, 3, dtype=torch.float64)
    targets = model(inputs).detach() + noise - inputs @ torch.linalg.lstsq(inputs, noise).solution
    return model, TensorDataset(inputs, targets)


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("batch_size", [5, 256])
def test_the_quadratic_is_exact_where_the_loss_is_one(orthogonal, batch_size: int):
    model, data = orthogonal
    anchor = values(model)
    other = {"weight": anchor["weight"] + torch.randn(3, 4)}
    fisher = fisher_diagonal(model, data, likelihood="gaussian")
    fractions = (-0.5, 0.0, 0.3, 1.0, 2.0)
    options = {"fractions": fractions, "likelihood": "gaussian", "batch_size": batch_size}
    fit = quadratic_fit(model, data, fisher, anchor, other, **options)
    assert fit.fractions.tolist() == list(fractions)
    assert fit.predicted[3] > 0.1, fit
    np.testing.assert_allclose(fit.actual, fit.predicted, rtol=1e-5, atol=1e-12)  # the Fisher is in float32


def test_correlated_inputs_are_what_a_diagonal_misses():
    """x = (1, 1) always: along (1, −1) the loss stays, along (1, 1) it grows twice as fast as the diagonal says."""
    model = nn.Linear(2, 1, bias=False)
    data = TensorDataset(torch.ones(3, 2), torch.zeros(3, 1))
    fisher, anchor = {"weight": torch.ones(1, 2)}, {"weight": torch.zeros(1, 2)}
    for direction, actual in (([[1.0, -1.0]], 0.0), ([[1.0, 1.0]], 2.0)):
        other = {"weight": torch.tensor(direction)}
        fit = quadratic_fit(model, data, fisher, anchor, other, fractions=[1.0], likelihood="gaussian")
        assert (fit.actual.tolist(), fit.predicted.tolist()) == ([actual], [1.0])


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
def test_the_fisher_is_the_curvature_close_to_a_single_weights_anchor(likelihood: str):
    """Logits θx: with targets that the model itself predicts the slope is 0, and close by only the Fisher counts."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False)).double().train()
    inputs = torch.randn(20, 1, dtype=torch.float64)
    logits = model(inputs).detach()
    targets = logits.softmax(dim=1) if likelihood == "categorical" else logits.sigmoid()
    data, anchor = TensorDataset(inputs, targets), values(model)
    fisher = fisher_diagonal(model, data, likelihood=likelihood)
    other = {"0.weight": anchor["0.weight"] + torch.tensor([[1e-3], [0.0]])}
    fit = quadratic_fit(model, data, fisher, anchor, other, likelihood=likelihood)
    np.testing.assert_allclose(fit.actual, fit.predicted, rtol=2e-3)


def test_class_labels_give_cross_entropy():
    model = nn.Linear(3, 4)
    inputs, labels = torch.randn(10, 3), torch.randint(0, 4, (10,))
    anchor, other = values(model), values(nn.Linear(3, 4))
    ones = {name: torch.ones_like(p) for name, p in anchor.items()}
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=4, shuffle=True)
    fit = quadratic_fit(model, loader, ones, anchor, other, fractions=[1.0])
    before = nn.functional.cross_entropy(model(inputs), labels).item()
    model.load_state_dict(other)
    after = nn.functional.cross_entropy(model(inputs), labels).item()
    assert fit.actual[0] == pytest.approx(after - before, abs=1e-6)
    distance = sum(float(((other[name] - anchor[name]) ** 2).sum()) for name in anchor)
    assert fit.predicted[0] == pytest.approx(distance / 2, rel=1e-6)


def test_the_model_is_left_as_it_was_even_after_an_error(orthogonal):
    model, data = orthogonal
    model.train()
    model.weight.grad = torch.ones_like(model.weight)
    before, state = values(model), torch.get_rng_state()
    zero = {"weight": torch.zeros(3, 4)}
    quadratic_fit(model, data, zero, zero, values(model), likelihood="gaussian", n_samples=5)
    far = {"weight": torch.full((3, 4), 1e200, dtype=torch.float64)}
    with pytest.raises(FloatingPointError, match="the loss is inf at fraction 1 "):
        quadratic_fit(model, data, zero, zero, far, fractions=[1.0], likelihood="gaussian")
    assert torch.equal(model.weight, before["weight"])
    assert torch.equal(model.weight.grad, torch.ones(3, 4))
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"anchor": {}}, "anchor has no 'weight', but importance has"),
        ({"other": {"weight": torch.zeros(4, 3)}}, r"'weight' has shape \(3, 4\) in importance, but \(4, 3\) in other"),
        ({key: {"w": torch.zeros(1)} for key in ("importance", "anchor", "other")}, "model has no 'w'"),
        ({"likelihood": "poisson"}, "likelihood is 'poisson'; allowed: categorical, gaussian, bernoulli"),
        ({"fractions": [0.5, math.inf]}, r"fractions\[1\] is inf"),
        ({"n_samples": 0}, "n_samples is 0"),
        ({"data": TensorDataset(torch.randn(2, 4))}, "needs targets, but the data has none"),
        ({"data": TensorDataset(torch.randn(2, 4), torch.randn(2))}, r"targets have shape \(2,\)"),
        ({"data": TensorDataset(torch.randn(0, 4), torch.randn(0, 3))}, "data is empty"),
        (
            {"data": TensorDataset(torch.randn(2, 4), torch.tensor([0, 3])), "likelihood": "categorical"},
            "class labels range from 0 to 3; allowed: 0 to 2",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, said):
    zero = {"weight": torch.zeros(3, 4)}
    arguments = {
        "data": TensorDataset(torch.randn(2, 4), torch.randn(2, 3)),
        "importance": zero,
        "anchor": zero,
        "other": zero,
        "likelihood": "gaussian",
    }
    with pytest.raises(ValueError, match=said):
        quadratic_fit(nn.Linear(4, 3, bias=False), **{**arguments, **change})
