"""Kronecker factors of every kind of layer equal the slow reference; what has none keeps the diagonal."""

import copy
import functools
import itertools
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from clreg_plugins import KroneckerPenalty, LayerRule, fisher_diagonal, kronecker_factors, register_layer_rule
from clreg_plugins.importance.engine.factors import WEIGHT_SHARING
from clreg_plugins.importance.engine.layer_rules import LinearRule, registry
from clreg_plugins.importance.kronecker_factors import FACTOR_VARIANTS
from tests import oracles
from tests.importance import models
from tests.importance.cases import CASES, SAMPLES
from tests.importance.test_estimators import BATCH, DRAWS, SEED, drawn_labels

pytestmark = pytest.mark.filterwarnings(
    "ignore:Using padding='same' with even kernel lengths", "error:the fast rule for"
)

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
ATTENTION = ("attention.in_proj", "attention.out_proj", "layer.self_attn.in_proj", "layer.self_attn.out_proj")


def has_rule(case, parameter):
    return not any(parameter == prefix or parameter.startswith(prefix + ".") for prefix in case.not_by_rule)


def layers_of(case):
    """Names of the layers that are called once and multiply a weight with rows of samples."""
    found = set()
    for name, module in case.model().named_modules():
        own = [n for n, _ in module.named_parameters(prefix=name, recurse=False) if n.endswith(("weight", "bias"))]
        if isinstance(module, KINDS) and any(has_rule(case, n) for n in own):
            found.add(name)
    return found


def assert_factors(found, expected, tolerance):
    assert set(found) == set(expected)
    for name, (a, g) in expected.items():
        of_inputs = a if found[name].inputs.ndim > 1 else a[0].diagonal()
        got = {"A": found[name].inputs, "G": found[name].outputs}
        oracles.assert_close(got, {"A": of_inputs, "G": g}, tolerance, name)


def measure(case_name, variant, dtype=torch.float64, pass_=kronecker_factors, **options):
    case = CASES[case_name]
    samples = tuple(part.to(dtype) if part.is_floating_point() else part for part in case.samples())
    model, data = case.model().to(dtype), TensorDataset(*samples)
    options = {"batch_size": BATCH, "seed": SEED, "draws": DRAWS, "likelihood": case.likelihood, **options}
    with oracles.default_dtype(dtype):
        return pass_(model, data, variant=variant, **options)


@functools.cache
def reference(case_name, variant, sharing="expand"):
    case = CASES[case_name]
    samples = case.samples()
    drawn = drawn_labels(case_name) if variant == "sample" else None
    one_by_one = oracles._one_by_one(samples)
    layers = layers_of(case) - set(ATTENTION)
    return oracles.factors(
        case.model(),
        lambda model, n: oracles._outputs(model, one_by_one[n]),
        SAMPLES,
        lambda z, n: oracles.scored(z, one_by_one[n], n, variant, case.likelihood, drawn),
        layers,
        sharing=sharing,
    )


PAIRS = [
    (case, variant)
    for case in CASES
    for variant in FACTOR_VARIANTS
    if (CASES[case].likelihood, variant) != ("gaussian", "predicted")
]


@pytest.mark.parametrize(("case", "variant"), PAIRS)
def test_factors_equal_the_reference_and_the_rest_is_the_diagonal(case, variant):
    found = measure(case, variant)
    expected = reference(case, variant)
    by_module = {name: layer for name, layer in found.items() if name not in ATTENTION}
    assert_factors(by_module, expected, 1e-10)
    if variant == "exact":
        single = measure(case, variant, torch.float32)
        assert_factors({n: layer for n, layer in single.items() if n not in ATTENTION}, expected, 1e-4)
    whole = measure(case, variant, pass_=fisher_diagonal)
    factored = {name for layer in found.values() for name in layer.parameters}
    oracles.assert_close(found.diagonal, {n: v for n, v in whole.items() if n not in factored}, 1e-12, "diagonal")
    assert found.paths == {n: "factors" if n in factored else path for n, path in whole.paths.items()}


@pytest.mark.parametrize("case", CASES)
def test_layers_that_act_once_on_rows_of_samples_have_factors(case):
    unused = {"heads.classifiers.0.classifier"} if case == "multi-head, one task" else set()
    assert set(measure(case, "exact")) == (layers_of(CASES[case]) - unused) | projections_of(CASES[case])


def projections_of(case):
    """Names of the projections of attention that see whole samples."""
    parameters = dict(case.model().named_parameters())
    return {name for name in ATTENTION for n in parameters if n.startswith(name) and has_rule(case, n)}


@pytest.mark.parametrize("case", ["conv2d", "conv1d", "conv3d", "embedding", "transformer", "regression of a map"])
def test_positions_reduced_before_the_products(case):
    found = measure(case, "exact", weight_sharing="reduce")
    assert_factors({n: f for n, f in found.items() if n not in ATTENTION}, reference(case, "exact", "reduce"), 1e-10)


class WrittenOut(nn.Module):
    """``nn.MultiheadAttention`` on itself, samples first, whose projections are layers."""

    def __init__(self, attention):
        super().__init__()
        self.heads, width = attention.num_heads, attention.embed_dim
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), attention.out_proj
        self.in_proj.weight, self.in_proj.bias = attention.in_proj_weight, attention.in_proj_bias

    def forward(self, x):
        q, k, v = (
            part.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2) for part in self.in_proj(x).chunk(3, dim=-1)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("variant", FACTOR_VARIANTS)
def test_projections_of_attention(variant):
    case, written_out = CASES["attention"], models.attention()
    written_out.load_state_dict(case.model().state_dict())
    written_out.attention = WrittenOut(written_out.attention)
    written_out._function = lambda self, x: self.head(self.attention(x).sum(1))
    one_by_one, layers = oracles._one_by_one(case.samples()), ("attention.in_proj", "attention.out_proj", "head")
    expected = oracles.factors(
        written_out,
        lambda model, n: oracles._outputs(model, one_by_one[n]),
        SAMPLES,
        lambda z, n: oracles.scored(z, one_by_one[n], n, variant, case.likelihood, drawn_labels("attention")),
        layers,
    )
    assert_factors(measure("attention", variant), expected, 1e-10)


# ------------------------------------------------------------ where they are exact


def gauss_newton_blocks(model, x):
    """``Σ_n J_nᵀ J_n / N`` of each layer, over its bias and then its weight, inputs before outputs."""
    blocks = {}
    for name, layer in model.named_children():
        if not isinstance(layer, nn.Linear):
            continue
        total = 0
        for row in x:
            jacobian = []
            for output in model(row[None])[0]:
                weight, bias = torch.autograd.grad(output, (layer.weight, layer.bias), retain_graph=True)
                jacobian.append(torch.cat([bias[None], weight.T]).flatten())
            jacobian = torch.stack(jacobian)
            total = total + jacobian.T @ jacobian / len(x)
        blocks[name] = total
    return blocks


@pytest.mark.parametrize(
    ("widths", "samples"), [((4, 1), 1), ((4, 3), 1), ((4, 5, 6, 1), 1), ((4, 1), 7), ((4, 3), 7)], ids=str
)
def test_the_product_is_the_gauss_newton_block(widths, samples):
    """Of one sample and one output, whatever lies behind the layer; of a single layer, whatever the samples."""
    layers = [part for i, o in itertools.pairwise(widths) for part in (nn.Linear(i, o), nn.Tanh())]
    model, x = nn.Sequential(*layers[:-1]).double(), torch.randn(samples, 4).double()
    found = kronecker_factors(model, TensorDataset(x), likelihood="gaussian")
    for name, block in gauss_newton_blocks(model, x).items():
        torch.testing.assert_close(torch.kron(found[name].inputs[0], found[name].outputs[0]), block)


@pytest.mark.parametrize("fisher_type", ["type-2", "empirical"])
@pytest.mark.parametrize("sharing", WEIGHT_SHARING)
def test_curvlinops_finds_the_same_products(fisher_type, sharing):
    curvlinops = pytest.importorskip("curvlinops")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 4, 2, stride=2), nn.Tanh(), nn.Flatten(),
        nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3),
    ).double()  # fmt: skip
    x, y = torch.randn(7, 2, 6, 6).double(), torch.arange(7) % 3
    parameters = dict(model.named_parameters())
    operator = curvlinops.KFACLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        list(parameters.values()),
        [(x, y)],
        fisher_type=fisher_type,
        kfac_approx=sharing,
        separate_weight_and_bias=False,
    )
    variant = {"type-2": "exact", "empirical": "empirical"}[fisher_type]
    penalty = KroneckerPenalty()
    penalty.grow(parameters)
    anchor = {name: p.detach() for name, p in parameters.items()}
    found = kronecker_factors(model, TensorDataset(x, y), variant=variant, weight_sharing=sharing)
    penalty.recenter(found, anchor)
    change = {name: torch.randn_like(p) for name, p in anchor.items()}
    ours = penalty.step({name: anchor[name] + change[name] for name in anchor}, 1.0).product
    theirs = dict(zip(parameters, operator @ list(change.values()), strict=True))
    oracles.assert_close(ours, {name: value.detach() for name, value in theirs.items()}, 1e-9, fisher_type)


# ------------------------------------------------------------ layers that differ


class Branch(nn.Module):
    """Samples whose first entry is positive pass by the branch; ``spare`` is used by none."""

    def __init__(self, branch):
        super().__init__()
        self.common, self.branch, self.spare = nn.Linear(4, 4), branch, nn.Linear(4, 4)

    def forward(self, x):
        chosen = x[:, 0] > 0
        return self.common(x).index_add(0, chosen.nonzero().flatten(), self.branch(x[chosen]).flatten(1)[:, :4])


BRANCHES = {
    "linear": lambda: nn.Linear(4, 4),
    "several positions": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, 2)),
    "convolution": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Conv1d(2, 2, 1)),
}


@pytest.mark.filterwarnings("ignore:the model's outputs")
@pytest.mark.parametrize("branch", BRANCHES)
def test_a_layer_that_some_samples_reach(branch):
    """In batches of all, of some, and of none: A is the mean over those that do. None at all: no factors."""
    model = Branch(BRANCHES[branch]()).double()
    x = torch.rand(9, 4).double()
    x[2] *= -1
    x[3:] *= -1
    y, name = torch.arange(9) % 4, "branch" if branch == "linear" else "branch.1"
    expected = oracles.factors(
        model,
        lambda m, n: m(x[n : n + 1]),
        9,
        lambda z, n: oracles.scored(z, (x[n : n + 1], y[n : n + 1]), n, "exact", "categorical"),
        ("common", name),
    )
    found = kronecker_factors(model, TensorDataset(x, y), batch_size=3)
    assert found.paths["spare.weight"] == "unused"
    assert not found.diagonal["spare.weight"].any()
    assert_factors(found, expected, 1e-10)
    unreached = kronecker_factors(model, TensorDataset(-x.abs(), y), batch_size=3)
    assert set(unreached) == {"common"}
    assert not any(unreached.diagonal[n].any() for n in unreached.diagonal if n.startswith("branch"))


class InTurn(nn.Module):
    """Two layers that share a weight, of which each sample takes one."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head((self.first if x[0, 0] > 0 else self.second)(x).tanh())


def test_layers_that_share_a_weight_keep_the_diagonal_even_if_samples_call_one_of_them():
    model, x = InTurn().double(), torch.randn(8, 4).double()
    x[::2, 0], x[1::2, 0] = 1, -1
    found, whole = (pass_(model, TensorDataset(x), batch_size=1) for pass_ in (kronecker_factors, fisher_diagonal))
    assert set(found) == {"head"}
    oracles.assert_close(found.diagonal, {n: v for n, v in whole.items() if not n.startswith("head")}, 1e-12)


FROZEN = {"nothing": (), "the weight": ("weight",), "the bias": ("bias",), "both": ("weight", "bias")}


@pytest.mark.parametrize("frozen", FROZEN)
@pytest.mark.parametrize("sharing", WEIGHT_SHARING)
@pytest.mark.parametrize(("case", "name"), [("mlp", "2"), ("conv2d", "0"), ("conv1d", "0")])
def test_frozen_parameters_take_no_part(case, name, frozen, sharing):
    case = CASES[case]
    model = case.model().double()
    for parameter in FROZEN[frozen]:
        getattr(model.get_submodule(name), parameter).requires_grad_(False)
    x, y = case.samples()
    layers = layers_of(case) - ({name} if frozen == "both" else set())
    expected = oracles.factors(
        model,
        lambda m, n: m(x[n : n + 1].double()),
        SAMPLES,
        lambda z, n: oracles.scored(z, (x[n : n + 1], y[n : n + 1]), n, "exact", "categorical"),
        layers,
        sharing=sharing,
    )
    found = kronecker_factors(model, TensorDataset(x.double(), y), weight_sharing=sharing)
    assert_factors(found, expected, 1e-10)
    for parameter in FROZEN[frozen]:
        assert found.paths[f"{name}.{parameter}"] == "unused"
        assert not found.diagonal[f"{name}.{parameter}"].any()
    if frozen != "both":
        assert (found[name].weight is None, found[name].bias is None) == tuple(
            parameter in FROZEN[frozen] for parameter in ("weight", "bias")
        )


@pytest.mark.parametrize("max_width", [8, 7, 6])
def test_a_factor_that_is_too_wide_leaves_the_diagonal(max_width):
    """Of the layers 5-7, 7-6 and 6-3, with a bias, the widest factors have 7, 8 and 7 rows."""
    widest = {"0": 7, "2": 8, "4": 7}
    expected = {name for name, rows in widest.items() if rows <= max_width}
    found = measure("mlp", "exact", max_width=max_width)
    assert set(found) == expected
    assert {name.split(".")[0] for name in found.diagonal} == set(widest) - expected
    whole = measure("mlp", "exact", pass_=fisher_diagonal)
    oracles.assert_close(found.diagonal, {n: whole[n] for n in found.diagonal}, 1e-12)


def test_a_rule_of_the_users_own_has_no_factors(monkeypatch):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class DoubledRule(LinearRule):
        def gradients(self, module, prepared, g):
            return {name: 2 * value for name, value in super().gradients(module, prepared, g).items()}

        moments, squares, reduce = LayerRule.moments, LayerRule.squares, LayerRule.reduce

    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    register_layer_rule(Doubled, DoubledRule())
    model, data = nn.Sequential(Doubled(3, 4), nn.Tanh(), nn.Linear(4, 2)), TensorDataset(torch.randn(9, 3))
    found = kronecker_factors(model, data)
    assert set(found) == {"2"}
    assert found.paths["0.weight"] == found.paths["0.bias"] == "rule"
    oracles.assert_close(
        found.diagonal, {n: v.double() for n, v in fisher_diagonal(model, data).items() if n[0] == "0"}, 1e-6
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_names_are_the_models_own():
    torch.compiler.reset()
    model = nn.Sequential(torch.compile(nn.Linear(3, 4), backend="eager"), nn.Tanh(), nn.Linear(4, 2))
    data = TensorDataset(torch.randn(9, 3))
    for wrapped in (model, torch.compile(model, backend="eager")):
        found = kronecker_factors(wrapped, data)
        assert {name: layer.parameters for name, layer in found.items()} == {
            "0": ("0.bias", "0.weight"),
            "2": ("2.bias", "2.weight"),
        }


def test_a_pass_takes_no_step_of_a_spectral_norms_power_iteration():
    """In training mode each look at the weight is one."""
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3)).double()
    data = TensorDataset(torch.randn(6, 5).double())
    expected, found = kronecker_factors(model.eval(), data), kronecker_factors(model.train(), data)
    assert_factors(found, {name: (layer.inputs, layer.outputs) for name, layer in expected.items()}, 1e-12)
    oracles.assert_close(found.diagonal, expected.diagonal, 1e-12)


def under_autocast(model, x, _labels):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model(x)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [(torch.float16, {}), (torch.bfloat16, {}), (torch.float32, {"forward": under_autocast})],
    ids=["float16", "bfloat16", "autocast"],
)
def test_factors_of_half_precision_are_in_single_precision(dtype, options):
    expected, found = measure("mlp", "exact"), measure("mlp", "exact", dtype, **options)
    dtype = torch.bfloat16 if options else dtype
    assert set(found) == set(expected)
    for name, layer in found.items():
        for got, want in zip(layer[2:], expected[name][2:], strict=True):
            assert got.dtype == torch.float32
            assert (got - want).norm() <= 20 * torch.finfo(dtype).eps * want.norm()


def test_copies_and_pickles_hold_everything():
    found = measure("resnet with bare parameter", "exact")
    for again in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert (again.paths, again.mode, again.reason) == (found.paths, found.mode, found.reason)
        assert_factors(again, {name: (layer.inputs, layer.outputs) for name, layer in found.items()}, 0)
        oracles.assert_close(again.diagonal, found.diagonal, 0)


# -------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "batched"}, "variant is 'batched'; allowed: exact, sample, predicted, empirical$"),
        ({"weight_sharing": "mean"}, "weight_sharing is 'mean'; allowed: expand, reduce"),
        ({"max_width": 0}, "max_width is 0; allowed: a whole number >= 1"),
        ({"draws": 0}, "draws is 0; allowed: a whole number from 1 to 65536"),
        ({"likelihood": "mse"}, "likelihood is 'mse'; allowed: categorical, gaussian, bernoulli"),
        ({"variant": "predicted", "likelihood": "gaussian"}, "zero under a gaussian likelihood"),
    ],
)
def test_an_option_outside_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        kronecker_factors(nn.Linear(3, 2), TensorDataset(torch.randn(4, 3)), **options)
    with pytest.raises(TypeError, match="kronecker_factors"):
        kronecker_factors(nn.Linear(3, 2), TensorDataset(torch.randn(4, 3)), batched=True)


def test_a_factor_that_overflows_is_an_error():
    """A, whose square is beyond float32, where G is 0 in all but rounding."""
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    x[0, 1] = 1e25
    with pytest.raises(FloatingPointError, match="the factor A of '' is not finite; every entry must be"):
        kronecker_factors(model, TensorDataset(x))
    with pytest.raises(ValueError, match="all targets are ignore_index"):
        kronecker_factors(model, TensorDataset(torch.randn(4, 3), torch.full((4,), -100)))
