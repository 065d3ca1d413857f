"""A rule that does not hold is found out on the first batch: one warning, and the numbers are still right."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from clreg_plugins.importance import fisher_diagonal, mas_importance
from clreg_plugins.importance.engine import layer_rules as layers
from clreg_plugins.importance.engine.layer_rules import normalisation, registry
from tests import oracles
from tests.importance.cases import CASES


def exact(model: nn.Module, samples: oracles.Samples):
    return fisher_diagonal(model, TensorDataset(*samples), batch_size=2)


def reference(model: nn.Module, samples: oracles.Samples) -> oracles.Tensors:
    return oracles.fisher(model, samples, variant="exact", likelihood="categorical")


class WithoutSquare(layers.LinearRule):
    """Forgets to square the input."""

    def moments(self, module, a, gs, power, max_bytes):
        return {name: value.sqrt() for name, value in super().moments(module, a, gs, power, max_bytes).items()}


class SumsSamplesFirst(layers.ConvRule):
    """Squares the sum over samples, which is right for one sample alone."""

    def gradients(self, module, prepared, g):
        explicit = super().gradients(module, prepared, g)
        return {name: value.sum(dim=0, keepdim=True) for name, value in explicit.items()}


class ForgetsBias(layers.LinearRule):
    """Gives no number for the bias."""

    def moments(self, module, a, gs, power, max_bytes):
        return {"weight": super().moments(module, a, gs, power, max_bytes)["weight"]}


class HalfAPercentOff(layers.NormRule):
    """Nearly right."""

    def gradients(self, module, prepared, g):
        return {name: 1.0025 * value for name, value in super().gradients(module, prepared, g).items()}


@pytest.mark.parametrize(
    ("kind", "rule", "case"),
    [
        (nn.Linear, WithoutSquare(), "mlp"),
        (nn.Linear, ForgetsBias(), "mlp"),
        (nn.Conv2d, SumsSamplesFirst(), "resnet"),
        (nn.BatchNorm2d, HalfAPercentOff(normalisation._batch_norm, last_dimensions=False), "resnet"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_wrong_rule_warns_once_and_changes_no_number(monkeypatch, kind, rule, case, dtype):
    monkeypatch.setitem(registry._RULES, kind, rule)
    model, (x, y) = CASES[case].model().to(dtype), CASES[case].samples()
    with pytest.warns(UserWarning, match="the fast rule for .* disagrees with autograd") as caught:
        got = exact(model, (x.to(dtype), y))
    assert len([w for w in caught if "the fast rule" in str(w.message)]) == 1
    oracles.assert_close(got, reference(model, (x, y)), 1e-10 if dtype is torch.float64 else 1e-4)
    affected = [n for n, m in model.named_modules() if type(m) is kind]
    for name, path in got.paths.items():
        wanted = "vectorised" if name.rpartition(".")[0] in affected else "rule"
        assert path == wanted, f"{name} took {path}"


def test_an_outer_product_that_is_wrong_is_found_out(monkeypatch):
    """The product that the fast path of Linear uses is the one that is checked."""
    right = layers.LinearRule.reduce

    def without_square(self, module, a, squares, power):
        return {"weight": squares["outputs"].T @ a.abs(), "bias": right(self, module, a, squares, power)["bias"]}

    monkeypatch.setattr(layers.LinearRule, "reduce", without_square)
    model, samples = CASES["mlp"].model().double(), CASES["mlp"].samples()
    samples = (samples[0].double(), samples[1])
    with pytest.warns(UserWarning, match="the fast rule for 0.weight, 0.bias, 2.weight"):
        got = exact(model, samples)
    oracles.assert_close(got, reference(model, samples), 1e-10)


@pytest.mark.filterwarnings("error:the fast rule")
def test_a_hook_that_changes_an_output_changes_no_number():
    """A layer's own hooks come after ours, so the rule still holds."""
    model, (x, y) = CASES["mlp"].model().double(), CASES["mlp"].samples()
    model[0].register_forward_hook(lambda module, args, output: output * torch.arange(1.0, 8.0))
    model[2].register_forward_pre_hook(lambda module, args: (args[0] * 3,))
    got = exact(model, (x.double(), y))
    oracles.assert_close(got, reference(model, (x, y)), 1e-10)
    assert set(got.paths.values()) == {"rule"}


def test_a_global_hook_that_changes_outputs_is_found_out():
    """A hook on all modules comes before ours: what we see is not the layer's own output."""
    model, (x, y) = CASES["mlp"].model().double(), CASES["mlp"].samples()

    def scale(module, args, output):
        return output * 2 if module is model[2] else output

    handle = nn.modules.module.register_module_forward_hook(scale)
    try:
        with pytest.warns(UserWarning, match=r"the fast rule for 2\.weight, 2\.bias disagrees"):
            got = exact(model, (x.double(), y))
    finally:
        handle.remove()
    # the reference runs on a copy of the model, which the hook does not know: scale by hand
    scaled = CASES["mlp"].model().double()
    scaled[2].register_forward_hook(lambda module, args, output: output * 2)
    expected = reference(scaled, (x, y))
    oracles.assert_close(got, expected, 1e-10)
    assert {n: p for n, p in got.paths.items() if p != "rule"} == {
        "2.weight": "vectorised",
        "2.bias": "vectorised",
    }


def test_an_overridden_forward_takes_no_rule():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(Doubled(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x, y = CASES["mlp"].samples()
    got = exact(model, (x.double(), y))
    oracles.assert_close(got, reference(model, (x, y)), 1e-10)
    assert (got.paths["0.weight"], got.paths["2.weight"]) == ("vectorised", "rule")


def test_evidence_from_one_sample_does_not_vouch_for_many():
    """A first batch of one sample looks right whatever the layout; the second must be checked again."""
    table = nn.Embedding(3, 4)

    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = table, nn.Linear(4, 3)

        def forward(self, x):
            return self.head((x + self.table(torch.arange(3)[None])).tanh().sum(1))

    model = Positions().double()
    x, y = torch.randn(5, 3, 4), torch.tensor([0, 1, 2, 0, 1])
    loader = [(x[:1].double(), y[:1]), (x[1:].double(), y[1:])]
    got = fisher_diagonal(model, torch.utils.data.DataLoader(loader, batch_size=None))
    oracles.assert_close(got, reference(model, (x, y)), 1e-10)


def test_a_layer_that_one_batch_leaves_dark_is_checked_later(monkeypatch):
    """Without evidence there is no trust: the wrong rule is caught when its layer first matters."""
    monkeypatch.setitem(registry._RULES, nn.Linear, WithoutSquare())
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    x = torch.tensor([[-1.0, -1.0], [-2.0, -1.0], [1.0, 3.0], [2.0, 1.0]]).double()
    y = torch.tensor([0, 1, 0, 1])
    with pytest.warns(UserWarning, match="the fast rule for"):
        got = exact(model, (x, y))
    oracles.assert_close(got, reference(model, (x, y)), 1e-10)


def test_mas_is_checked_too(monkeypatch):
    monkeypatch.setitem(registry._RULES, nn.Conv2d, SumsSamplesFirst())
    model, (x, _) = CASES["resnet"].model().double(), CASES["resnet"].samples()
    with pytest.warns(UserWarning, match="the fast rule for"):
        got = mas_importance(model, TensorDataset(x.double()))
    oracles.assert_close(got, oracles.mas(model, (x,), output="squared_norm"), 1e-10)


class MaskedByTask(nn.Module):
    """A layer whose weight is masked from the second task on."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.masks = torch.stack([torch.ones(6, 4), torch.rand(6, 4).round()]).double()

    def forward(self, x, task_labels):
        masked = {"weight": self.layer.weight * self.masks[task_labels[0]]}
        return self.head(torch.func.functional_call(self.layer, masked, (x,)).tanh())


def test_evidence_from_one_task_does_not_vouch_for_another():
    model, x = MaskedByTask().double(), torch.randn(24, 4).double()
    labels = torch.arange(24) // 12
    data = TensorDataset(x, labels, labels)
    with pytest.warns(UserWarning, match=r"the fast rule for layer\.weight, layer\.bias disagrees with autograd"):
        got = fisher_diagonal(model, DataLoader(data, batch_size=6))
    want = oracles.fisher(model, (x, labels, labels), variant="exact", likelihood="categorical")
    oracles.assert_close(got, want, 1e-10)


class Scale(nn.Module):
    """A factor for each input, which a call can square, and a second output on demand."""

    def __init__(self, pair=False):
        super().__init__()
        self.scale, self.pair = nn.Parameter(torch.rand(4)), pair

    def forward(self, x, squared=False):
        out = x * (self.scale**2 if squared else self.scale)
        return (out, x) if self.pair else out


class ScaleRule(layers.LayerRule):
    parameters = ("scale",)

    def gradients(self, module, a, g):
        return {"scale": torch.einsum("ni,nki->nki", a, g)}


class CallsScale(nn.Module):
    """Calls it by keyword for all but the first batch, or takes the first of its two outputs."""

    def __init__(self, pair):
        super().__init__()
        self.scale, self.head = Scale(pair), nn.Linear(4, 3)

    def forward(self, x):
        out = self.scale(x, squared=True) if (x[0, 0] > 0).item() else self.scale(x)
        return self.head(out[0] if self.scale.pair else out)


@pytest.mark.parametrize("pair", [False, True])
def test_a_rule_is_for_calls_with_one_tensor_that_give_one(monkeypatch, pair):
    monkeypatch.setitem(registry._RULES, Scale, ScaleRule())
    model, x = CallsScale(pair).double(), torch.randn(12, 4).double()
    x[:, 0] = torch.arange(12) // 6 - 0.5
    got = fisher_diagonal(model, DataLoader(TensorDataset(x), batch_size=6))
    oracles.assert_close(got, oracles.fisher(model, (x,), variant="exact", likelihood="categorical"), 1e-10)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
def test_a_layer_without_outputs_has_importance_zero():
    model = nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 3)).double()
    got = exact(model, (torch.randn(4, 4).double(),))
    assert got["0.weight"].shape == (0, 4)
    assert got["1.bias"].all()
