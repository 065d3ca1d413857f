import contextlib
import copy
import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.autograd.functional import hessian as hessian_of
from torch.autograd.functional import jacobian as jacobian_of
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, TensorDataset

from clreg_plugins import KroneckerFactors, agreement, fisher_diagonal, kronecker_factors, quadratic_picture


def one(*values: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.tensor(values, dtype=torch.float32)}


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


# ------------------------------------------------------------------ quadratic_picture

Flat = Callable[[torch.Tensor], torch.Tensor]
"""A function of all parameters in one vector."""


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(anchor: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    return {name: value + scale * torch.randn_like(value) for name, value in anchor.items()}


def flattened(model: nn.Module, function: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> Flat:
    """``function`` of the model's outputs, in float64 and eval mode, as one of its parameters in a row."""
    model = copy.deepcopy(model).double().eval()
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def outputs(theta: torch.Tensor) -> torch.Tensor:
        parts = theta.split([shape.numel() for shape in shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return function(functional_call(model, named, (inputs.double(),)))

    return outputs


LOSSES = {
    "categorical": nn.functional.cross_entropy,
    "categorical, soft labels": nn.functional.cross_entropy,
    "gaussian": lambda z, y: 0.5 * (z - y).square().sum() / len(z),
    "bernoulli": lambda z, y: nn.functional.binary_cross_entropy_with_logits(z, y, reduction="sum") / len(z),
}


def dense_model() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(), nn.Linear(4, 3))


def convolutional_model() -> nn.Module:
    layers = [nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 3), nn.GELU(), nn.MaxPool1d(2, 1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, 3))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(5, 1, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = torch.stack([x, x.flip(1), x**2], dim=1)
        return self.out(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(dim=1))


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("make", [dense_model, convolutional_model, Attention])
def test_the_picture_is_that_of_the_whole_jacobian_and_hessian(make, kind: str):
    model, likelihood = make(), kind.partition(",")[0]
    inputs, noise = torch.randn(11, 5), torch.randn(11, 3)
    targets = {"categorical": torch.randint(0, 3, (11,)), "gaussian": noise, "bernoulli": noise.sigmoid()}
    targets = targets.get(kind, noise.softmax(dim=1))
    model(inputs)  # moves the statistics of a normalisation
    anchor = values(model)
    points = [moved(anchor, 0.01), moved(anchor, 1.0)]
    curvatures = {
        "exact": fisher_diagonal(model, TensorDataset(inputs, targets), likelihood=likelihood),
        "factors": kronecker_factors(model, TensorDataset(inputs, targets), likelihood=likelihood),
    }
    before = whole(model)
    data = TensorDataset(inputs, targets)
    picture = quadratic_picture(model, data, anchor, points, curvatures, likelihood=likelihood, batch_size=4)
    assert whole(model) == before

    y = targets if targets.dtype == torch.int64 else targets.double()
    loss = flattened(model, lambda z: LOSSES[kind](z, y), inputs)
    outputs = flattened(model, torch.Tensor.flatten, inputs)
    theta = torch.cat([value.flatten() for value in anchor.values()]).double()
    z = outputs(theta)
    of_outputs = hessian_of(lambda z: LOSSES[kind](z.view(11, 3), y), z)
    with sdpa_kernel(SDPBackend.MATH):
        jacobian, slope, hessian = jacobian_of(outputs, theta), jacobian_of(loss, theta), hessian_of(loss, theta)
    diagonal = torch.cat([curvatures["exact"][name].flatten() for name in anchor]).double()
    for i, point in enumerate(points):
        delta = torch.cat([value.flatten() for value in point.values()]).double() - theta
        expected = {
            "distance": delta.norm(),
            "actual": loss(theta + delta) - loss(theta),
            "first_order": slope @ delta,
            "gauss_newton": (jacobian @ delta) @ of_outputs @ (jacobian @ delta) / 2,
            "hessian": delta @ hessian @ delta / 2,
        }
        for name, value in expected.items():
            assert getattr(picture, name)[i] == pytest.approx(float(value), rel=2e-4, abs=2e-6), name
        assert picture.predicted["exact"][i] == pytest.approx(float(diagonal @ delta**2) / 2, rel=1e-6)
        factored = quadratic_of(curvatures["factors"], anchor, point)
        assert picture.predicted["factors"][i] == pytest.approx(factored, rel=1e-6)
        assert picture.share["factors"][i] == pytest.approx(factored / picture.gauss_newton[i], rel=1e-6)
    assert abs(picture.hessian[1] / picture.gauss_newton[1] - 1) > 1e-3, "the case tells the two apart"


def whole(model: nn.Module) -> dict[str, object]:
    state = {name: tuple(value.flatten().tolist()) for name, value in model.state_dict().items()}
    return state | {name: module.training for name, module in model.named_modules()} | {"draws": torch.initial_seed()}


def quadratic_of(factors: KroneckerFactors, anchor: dict, point: dict) -> float:
    """½ Σ tr(Δᵀ G Δ A) with the matrices A ⊗ G written out, and the rest's diagonal."""
    total = sum(float((f.double() * (point[n] - anchor[n]).double() ** 2).sum()) for n, f in factors.diagonal.items())
    for layer in factors.values():
        parts = [(point[name] - anchor[name]).double() for name in layer.parameters]
        change = torch.cat([part.reshape(len(part), -1) for part in parts], dim=1)  # the bias in front
        block = torch.kron(layer.outputs[0].double(), layer.inputs[0].double())
        total += float(change.flatten() @ block @ change.flatten())
    return total / 2


@pytest.mark.parametrize("batch_size", [5, 256])
def test_a_linear_model_with_a_gaussian_likelihood_is_its_own_picture(batch_size: int):
    model = nn.Linear(4, 3).double()
    data = TensorDataset(torch.randn(12, 4).double(), torch.randn(12, 3).double())
    anchor = values(model)
    points = [moved(anchor, scale) for scale in (1e-3, 1.0, 100.0)]
    picture = quadratic_picture(model, data, anchor, points, {}, likelihood="gaussian", batch_size=batch_size)
    assert (picture.gauss_newton > 0).all()
    np.testing.assert_allclose(picture.hessian, picture.gauss_newton, rtol=1e-12)
    np.testing.assert_allclose(picture.actual, picture.first_order + picture.gauss_newton, rtol=1e-9, atol=1e-12)


def test_factors_of_one_layer_and_one_sample_are_the_whole_curvature():
    model, data = nn.Linear(4, 3).double(), TensorDataset(torch.randn(1, 4).double(), torch.tensor([2]))
    curvatures = {"factors": kronecker_factors(model, data), "diagonal": fisher_diagonal(model, data)}
    anchor = values(model)
    share = quadratic_picture(model, data, anchor, [moved(anchor, 0.5), anchor], curvatures).share
    assert share["factors"][0] == pytest.approx(1, rel=1e-12)
    assert abs(share["diagonal"][0] - 1) > 0.01
    assert math.isnan(share["factors"][1])


def test_correlated_inputs_are_what_a_diagonal_misses():
    """x = (1, 1) always: along (1, −1) the loss stays, along (1, 1) it grows twice as fast as the diagonal says."""
    model = nn.Linear(2, 1, bias=False)
    data = TensorDataset(torch.ones(3, 2), torch.zeros(3, 1))
    points = [{"weight": torch.tensor([[1.0, sign]])} for sign in (-1.0, 1.0)]
    curvatures = {"diagonal": {"weight": torch.ones(1, 2)}, "negative": {"weight": torch.tensor([[-3.0, 1.0]])}}
    picture = quadratic_picture(model, data, {"weight": torch.zeros(1, 2)}, points, curvatures, likelihood="gaussian")
    assert (picture.actual.tolist(), picture.predicted["diagonal"].tolist()) == ([0.0, 2.0], [1.0, 1.0])
    assert picture.share["diagonal"].tolist() == [math.inf, 0.5]
    assert picture.predicted["negative"].tolist() == [-1.0, -1.0]


def test_positions_that_are_ignored_do_not_count():
    model = nn.Sequential(nn.Embedding(6, 5), nn.Linear(5, 4))
    tokens, labels = torch.randint(0, 6, (5, 3)), torch.randint(0, 4, (5, 3))
    labels[0, :2] = labels[3] = -1
    anchor = values(model)
    points, kept = [moved(anchor, 0.3)], [0, 1, 2, 4]
    options = {"class_dim": -1, "ignore_index": -1}
    picture = quadratic_picture(model, TensorDataset(tokens, labels), anchor, points, {}, **options)
    losses = []
    for parameters in (anchor, points[0]):
        z = functional_call(model, parameters, (tokens[kept],)).mT
        losses.append(float(nn.functional.cross_entropy(z, labels[kept], ignore_index=-1, reduction="sum")))
    assert picture.actual[0] == pytest.approx((losses[1] - losses[0]) / len(kept), rel=1e-5)
    again = quadratic_picture(model, TensorDataset(tokens[kept], labels[kept]), anchor, points, {}, **options)
    assert picture.gauss_newton[0] == pytest.approx(again.gauss_newton[0], rel=1e-6)


def test_a_part_of_the_parameters_moves_also_one_that_is_frozen_by_now():
    """What the anchor does not name keeps the value that it has in the model."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    data = TensorDataset(torch.randn(9, 3), torch.randint(0, 2, (9,)))
    curvatures = {"exact": fisher_diagonal(model, data), "factors": kronecker_factors(model, data)}
    anchor = {name: value for name, value in values(model).items() if name.startswith("0.")}
    point = moved(anchor, 0.1)
    model[0].requires_grad_(False)
    part = quadratic_picture(model, data, anchor, [point], curvatures)
    assert not any(p.requires_grad for p in model[0].parameters())
    everything = values(model)
    full = quadratic_picture(model, data, everything, [everything | point], curvatures)
    for name in ("distance", "actual", "first_order", "gauss_newton", "hessian"):
        assert getattr(part, name)[0] == pytest.approx(getattr(full, name)[0], rel=1e-6), name
        assert getattr(part, name)[0] != 0, name
    assert part.predicted["factors"][0] == pytest.approx(full.predicted["factors"][0], rel=1e-12)


def test_anchor_and_points_may_be_the_models_own_parameters():
    model, data = dense_model().eval(), TensorDataset(torch.randn(9, 5), torch.randint(0, 3, (9,)))
    own, before = dict(model.named_parameters()), values(model)
    far = moved(before, 1.0)
    for anchor, points in ((own, [far, before, far]), (far, [own, before, own])):
        copies = [{name: value.detach().clone() for name, value in each.items()} for each in (anchor, *points)]
        want = quadratic_picture(model, data, copies[0], copies[1:], {}, batch_size=4)
        found = quadratic_picture(model, data, anchor, points, {}, batch_size=4)
        for name in ("actual", "first_order", "gauss_newton"):
            np.testing.assert_array_equal(getattr(found, name), getattr(want, name), name)
            assert getattr(found, name)[0] == getattr(found, name)[2], name


@pytest.mark.parametrize(
    "forward", [lambda model, x, _: model(x + torch.randn_like(x)), lambda model, x, _: model(x.mul_(0.5))]
)
def test_points_meet_the_same_draws_and_inputs(forward):
    model, data = nn.Linear(4, 3), TensorDataset(torch.randn(9, 4), torch.randint(0, 3, (9,)))
    anchor = values(model)
    assert quadratic_picture(model, data, anchor, [anchor, anchor], {}, forward=forward).actual.tolist() == [0, 0]


class Merged(nn.Module):
    """A low-rank change of a frozen weight, which is added to it in eval mode, as LoRA does, before a head."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.merged, self.head = nn.Linear(5, 4).requires_grad_(False), False, nn.Linear(4, 3)
        self.a, self.b = nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.randn(4, 2))

    def train(self, mode: bool = True) -> "Merged":
        super().train(mode)
        if mode == self.merged:
            self.base.weight.data += (-1 if mode else 1) * (self.b @ self.a).detach()
            self.merged = not mode
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((self.base(x) + (0 if self.merged else x @ self.a.T @ self.b.T)).tanh())


class Counting(nn.Module):
    """Each call gives other outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen, self.draws = nn.Linear(5, 3), 0, random.Random(0)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls, self.seen = self.calls + 1, self.seen + 1
        return self.layer(x) * (self.calls + self.seen + self.draws.random())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [Merged, Counting])
def test_modes_and_states_of_the_models_own(make, training: bool):
    """Each evaluation begins from the same state, in a mode that reaches all parameters."""
    torch.manual_seed(0)
    model = make().double()
    x, y = torch.randn(9, 5).double(), torch.arange(9) % 3

    def loss(theta: dict[str, torch.Tensor]) -> float:
        return float(nn.functional.cross_entropy(functional_call(copy.deepcopy(model).train(), theta, (x,)), y))

    anchor = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    point, before = moved(anchor, 0.3), whole(model.train(training))
    picture = quadratic_picture(model, TensorDataset(x, y), anchor, [anchor, point], {}, batch_size=9)
    assert whole(model) == before
    model.train()
    assert picture.actual[0] == 0
    assert picture.actual[1] == pytest.approx(loss(point) - loss(anchor), rel=1e-9)


def test_all_is_left_as_it_was_even_after_an_error():
    model = nn.Linear(4, 3).train()
    model.weight.grad = torch.ones_like(model.weight)
    data = TensorDataset(torch.randn(8, 4), torch.randn(8, 3))
    data = DataLoader(data, shuffle=True, generator=torch.Generator().manual_seed(1))
    anchor, near, far = ({"weight": torch.full((3, 4), value)} for value in (0.0, 1.0, 1e30))
    before, order, state = values(model), data.sampler.generator.get_state(), torch.get_rng_state()
    quadratic_picture(model, data, anchor, [near], {}, likelihood="gaussian", n_samples=5)
    with pytest.raises(FloatingPointError, match=r"the loss at points\[1\] is inf"):
        quadratic_picture(model, data, anchor, [near, far], {}, likelihood="gaussian", forward=steep)
    assert torch.equal(model.weight, before["weight"])
    assert torch.equal(model.weight.grad, torch.ones(3, 4))
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(data.sampler.generator.get_state(), order)


def steep(model: nn.Module, x: torch.Tensor, _labels: None) -> torch.Tensor:
    return model(x) ** 3


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 2 * g


class Lopsided(torch.autograd.Function):
    """A product whose second derivative by one of its factors is left out."""

    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        return g * y.detach(), g * x


def test_the_picture_of_a_weight_norm_is_right_or_an_error():
    """Its second derivative is wrong in some versions of PyTorch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3)).double()
    x, y, anchor, step = torch.randn(9, 5).double(), torch.arange(9) % 3, values(model), 1e-3
    point, picture = moved(anchor, 0.3), None
    with contextlib.suppress(ValueError):
        picture = quadratic_picture(model, TensorDataset(x, y), anchor, [point], {})

    def loss(scale: float) -> float:
        theta = {name: value + scale * (point[name] - value) for name, value in anchor.items()}
        return float(nn.functional.cross_entropy(functional_call(model, theta, (x,)), y))

    if picture is not None:
        assert picture.hessian[0] == pytest.approx((loss(step) - 2 * loss(0) + loss(-step)) / step**2 / 2, rel=1e-3)


def bounded(model: nn.Module, x: torch.Tensor, _labels: None) -> torch.Tensor:
    """A constraint that is imposed in the forward pass."""
    with torch.no_grad():
        model.weight.clamp_(max=0.5)
    return model(x)


def test_an_embedding_that_renormalises_rows_in_the_forward_pass_is_refused_where_it_does():
    """The loss beyond ``max_norm`` is that of the bound, which PyTorch's derivatives do not know."""
    data = TensorDataset(torch.tensor([[0], [2]]), torch.tensor([0, 1]))
    model = nn.Sequential(nn.Embedding(3, 4, max_norm=1.0), nn.Flatten(), nn.Linear(4, 2))
    anchor = values(model)
    anchor["0.weight"] = nn.functional.normalize(anchor["0.weight"]) * 0.9
    within, beyond = (anchor | {"0.weight": anchor["0.weight"] * scale} for scale in (0.9, 1.2))
    assert np.isfinite(quadratic_picture(model, data, anchor, [within], {}).hessian).all()
    with pytest.raises(ValueError, match=r"forward pass changes '0\.weight', as an embedding with max_norm does"):
        quadratic_picture(model, data, anchor, [within, beyond], {})


ZERO = {"weight": torch.zeros(3, 4)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"points": []}, "points is empty"),
        ({"points": [ZERO, {}]}, r"points\[1\] has no 'weight', but anchor has"),
        ({"points": [{"weight": torch.zeros(4, 3)}]}, r"has shape \(3, 4\) in anchor, but \(4, 3\) in points\[0\]"),
        ({"anchor": {"w": torch.zeros(1)}}, "model has no 'w', but anchor has"),
        ({"curvatures": {"ours": {}}}, r"curvatures\['ours'\] has no 'weight', but anchor has"),
        ({"curvatures": {"ours": {"weight": torch.ones(4, 3)}}}, r"curvatures\['ours'\]: .* expected \(3, 4\)"),
        ({"curvatures": {"ours": ZERO | {"v": torch.ones(1)}}}, r"curvatures\['ours'\]: .*unknown parameter 'v'"),
        ({"likelihood": "poisson"}, "likelihood is 'poisson'; allowed: categorical, gaussian, bernoulli"),
        ({"n_samples": 0}, "n_samples is 0"),
        ({"data": TensorDataset(torch.randn(2, 4))}, "needs targets, but the data has none"),
        ({"data": TensorDataset(torch.randn(2, 4), torch.randn(2))}, r"targets have shape \(2,\)"),
        ({"data": TensorDataset(torch.randn(0, 4), torch.randn(0, 3))}, "data is empty"),
        (
            {"data": TensorDataset(torch.randn(2, 4), torch.tensor([0, 3])), "likelihood": "categorical"},
            "class labels range from 0 to 3; allowed: 0 to 2",
        ),
        (
            {"data": TensorDataset(torch.randn(2, 4), torch.tensor([-100] * 2)), "likelihood": "categorical"},
            "no sample of the data counts",
        ),
        ({"forward": lambda model, x, _: model(x).detach()}, "no output of the model depends on a parameter"),
        ({"forward": lambda model, x, _: {"z": model(x)}}, "the model's output is a dict"),
        ({"forward": lambda model, x, _: Once.apply(model(x))}, "cannot be differentiated twice"),
        ({"forward": lambda model, x, _: model(x) + Once.apply(model(x))}, "cannot be differentiated twice"),
        ({"forward": lambda model, x, _: Lopsided.apply(model(x), model(x.flip(1)))}, "is not symmetric"),
        ({"forward": bounded}, "the model's forward pass changes 'weight'"),
    ],
)
def test_what_does_not_fit_is_named(change, said):
    arguments = {
        "data": TensorDataset(torch.randn(2, 4), torch.randn(2, 3)),
        "anchor": ZERO,
        "points": [{"weight": torch.ones(3, 4)}],
        "curvatures": {},
        "likelihood": "gaussian",
    }
    with pytest.raises(ValueError, match=said):
        quadratic_picture(nn.Linear(4, 3, bias=False), **{**arguments, **change})
