"""The model is left as it was; frozen, compiled and half-precision models and every kind of data serve."""

import copy

import pytest
import torch
from avalanche.benchmarks.utils import AvalancheDataset, as_classification_dataset
from avalanche.benchmarks.utils.transform_groups import TransformGroups
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from clreg_plugins.importance import fisher_diagonal, mas_importance
from tests import oracles
from tests.importance.cases import CASES
from tests.importance.models import resnet


def doubles(case: str):
    samples = CASES[case].samples()
    samples = tuple(part.double() if part.is_floating_point() else part for part in samples)
    return CASES[case].model().double(), samples


def reference(case: str) -> oracles.Tensors:
    return oracles.fisher(CASES[case].model(), CASES[case].samples(), variant="exact", likelihood="categorical")


# ------------------------------------------------------------- left as it was


@pytest.mark.parametrize("case", ["resnet", "gru", "transformer", "embedding", "mlp"])
@pytest.mark.parametrize("path", ["auto", "vectorised", "one_at_a_time"])
@pytest.mark.parametrize("variant", ["exact", "batched"])
def test_the_model_is_left_as_it_was(case, path, variant):
    if path == "vectorised" and not CASES[case].vectorisable:
        pytest.skip("a recurrent layer cannot be vectorised")
    model, samples = doubles(case)
    modules = list(model.modules())
    modules[-1].eval()
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    hooks = [len(m._forward_hooks) for m in modules]
    modes, state = [m.training for m in modules], copy.deepcopy(model.state_dict())
    gradients, required = (
        [p.grad.clone() for p in model.parameters()],
        [p.requires_grad for p in model.parameters()],
    )
    generator, attention = torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()

    fisher_diagonal(model, TensorDataset(*samples), variant=variant, path=path)

    assert [m.training for m in modules] == modes, "a module's mode changed"
    assert hooks == [len(m._forward_hooks) for m in modules], "a hook stayed behind"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items()), "state changed"
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True)), "a .grad changed"
    assert [p.requires_grad for p in model.parameters()] == required
    assert torch.equal(torch.get_rng_state(), generator), "the global generator moved"
    assert torch.backends.cudnn.enabled, "cuDNN stayed off"
    assert torch.backends.mha.get_fastpath_enabled() == attention
    assert torch.is_grad_enabled()


def test_the_model_is_left_as_it_was_by_an_error():
    model, _ = doubles("gru")
    model.gru.eval()
    modes = [m.training for m in model.modules()]
    with pytest.raises(ValueError, match="class labels range"):
        fisher_diagonal(model, TensorDataset(torch.randn(4, 4, 4).double(), torch.full((4,), 9)), variant="empirical")
    assert [m.training for m in model.modules()] == modes
    assert torch.backends.cudnn.enabled, "cuDNN stayed off"
    assert not any(m._forward_hooks for m in model.modules()), "a hook stayed behind"


@pytest.mark.parametrize("path", ["auto", "one_at_a_time"])
def test_a_parametrisation_that_changes_when_it_is_looked_at_is_left_as_it_was(path):
    model = CASES["transformer"].model()
    nn.utils.parametrizations.spectral_norm(model.layer.self_attn.out_proj)
    before = copy.deepcopy(model.state_dict())
    fisher_diagonal(model, TensorDataset(*CASES["transformer"].samples()), path=path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} has changed"


def test_dropout_and_batch_norm_run_in_eval_mode():
    """Twice the same number, and a model already in eval mode gives it too."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    data = TensorDataset(torch.randn(6, 4).double(), torch.arange(6) % 3)
    first, second = fisher_diagonal(model, data), fisher_diagonal(model, data)
    third = fisher_diagonal(model.eval(), data)
    for name in first:
        assert torch.equal(first[name], second[name]), f"{name} differs between two passes"
        assert torch.equal(first[name], third[name]), f"{name} differs between training and eval mode"


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad])
def test_it_works_without_gradients_around_it(context):
    model, samples = doubles("resnet")
    with context():
        got = fisher_diagonal(model, TensorDataset(*samples))
        assert torch.is_grad_enabled() == (context is torch.enable_grad)
    oracles.assert_close(got, reference("resnet"), 1e-10)
    assert not any(value.requires_grad for value in got.values())


# ------------------------------------------------------- frozen, unused, tied


@pytest.mark.parametrize("path", ["auto", "vectorised", "one_at_a_time"])
def test_frozen_and_unused_parameters_have_importance_zero(path):
    model, samples = doubles("resnet with bare parameter")
    model.net[0].conv1.weight.requires_grad_(False)
    model.net[1].bn1.bias.requires_grad_(False)
    model.spare, model.spare_parameter = nn.Linear(2, 2), nn.Parameter(torch.ones(2))
    got = fisher_diagonal(model, TensorDataset(*samples), path=path)
    expected = oracles.fisher(model, samples, variant="exact", likelihood="categorical")
    oracles.assert_close(got, expected, 1e-10)
    for name in ("net.0.conv1.weight", "net.1.bn1.bias", "spare.weight", "spare.bias", "spare_parameter"):
        assert got.paths[name] == "unused", f"{name} took {got.paths[name]}"
        assert not got[name].any(), f"{name} has importance {got[name].max()}"


@pytest.mark.parametrize("measure", [fisher_diagonal, mas_importance])
def test_a_frozen_model_has_importance_zero(measure):
    model, samples = doubles("mlp")
    model.requires_grad_(False)
    got = measure(model, TensorDataset(*samples))
    assert {name: value.shape for name, value in got.items()} == {n: p.shape for n, p in model.named_parameters()}
    assert not any(value.any() for value in got.values())


def test_frozen_layers_below_and_above():
    """A trunk that is frozen passes no gradient; a head that is frozen does."""
    for frozen in (0, 4):
        model, samples = doubles("mlp")
        model[frozen].requires_grad_(False)
        got = mas_importance(model, TensorDataset(samples[0]), output="vector")
        oracles.assert_close(got, oracles.mas(model, samples[:1], output="vector"), 1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("path", ["auto", "one_at_a_time", "vectorised"])
def test_half_precision_models_have_importance_in_float32(dtype, path):
    """Squares of half precision's gradients underflow; ours are summed in float32."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    samples = (0.0002 * torch.randn(6, 4)).to(dtype), torch.arange(6) % 3
    got = fisher_diagonal(model, TensorDataset(*samples), path=path)
    assert {value.dtype for value in got.values()} == {torch.float32}
    oracles.assert_close(got, oracles.fisher(model, samples, variant="exact", likelihood="categorical"), 0.05)


# ---------------------------------------------------------------- torch.compile


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("how", ["wrapped", "in place", "submodule wrapped", "submodule in place"])
def test_compiled_models(how, backend):
    model, samples = doubles("resnet with bare parameter")
    compiled = model
    if how == "wrapped":
        compiled = torch.compile(model, backend=backend)
    elif how == "in place":
        model.compile(backend=backend)
    elif how == "submodule wrapped":
        model.net[0] = torch.compile(model.net[0], backend=backend)
    else:
        model.net[0].compile(backend=backend)
    compiled.eval()(samples[0])  # compiled before we come
    compiled.train()
    got = fisher_diagonal(compiled, TensorDataset(*samples))
    oracles.assert_close(got, reference("resnet with bare parameter"), 1e-10)
    slow = {name for name, path in got.paths.items() if path != "rule"}
    assert slow == {"scale"}, f"{how}: {slow} took the general path"
    general = fisher_diagonal(compiled, TensorDataset(*samples), path="vectorised")
    oracles.assert_close(general, reference("resnet with bare parameter"), 1e-10)


def test_data_parallel_wrappers_are_looked_through():
    model, samples = doubles("mlp")
    got = fisher_diagonal(nn.DataParallel(model), TensorDataset(*samples))
    oracles.assert_close(got, reference("mlp"), 1e-10)


# ------------------------------------------------------------------------ data


class Listed(Dataset):
    """A map-style dataset of Python labels."""

    def __init__(self, samples: oracles.Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples[0])

    def __getitem__(self, index: int):
        return self.samples[0][index], int(self.samples[1][index])


@pytest.mark.parametrize("kind", ["loader", "tensors", "labels as numbers", "list", "avalanche", "extra field"])
def test_every_kind_of_data(kind):
    model, samples = doubles("mlp")
    data = {
        "loader": lambda: DataLoader(TensorDataset(*samples), batch_size=4),
        "tensors": lambda: TensorDataset(*samples),
        "labels as numbers": lambda: Listed(samples),
        "list": lambda: list(zip(*samples, strict=True)),
        "avalanche": lambda: as_classification_dataset(_with_targets(TensorDataset(*samples), samples[1])),
        "extra field": lambda: TensorDataset(*samples, torch.zeros(6), torch.zeros(6).long()),
    }[kind]()
    unpack = (lambda batch: batch[:2]) if kind == "extra field" else None
    got = fisher_diagonal(model, data, variant="empirical", batch_size=4, unpack=unpack)
    expected = oracles.fisher(model, samples, variant="empirical", likelihood="categorical")
    oracles.assert_close(got, expected, 1e-10)


def _with_targets(data: TensorDataset, targets: torch.Tensor) -> TensorDataset:
    data.targets = targets.tolist()
    return data


@pytest.mark.parametrize("kind", ["tensors", "loader of bare tensors", "with targets"])
def test_mas_needs_no_labels(kind):
    model, samples = doubles("mlp")
    data = {
        "tensors": TensorDataset(samples[0]),
        "loader of bare tensors": DataLoader(samples[0], batch_size=4),
        "with targets": TensorDataset(*samples),
    }[kind]
    oracles.assert_close(mas_importance(model, data), oracles.mas(model, samples, output="squared_norm"), 1e-10)


@pytest.mark.parametrize("n_samples", [None, 4])
def test_avalanche_data_gives_its_eval_transforms(n_samples):
    """Training's transform triples the inputs, evaluation's doubles them; the dataset's mode stays."""
    model, (x, y) = doubles("mlp")
    groups = TransformGroups({"train": (lambda v: v * 3, None), "eval": (lambda v: v * 2, None)}, current_group="train")
    data = AvalancheDataset([_with_targets(TensorDataset(x, y), y)], transform_groups=groups)
    assert torch.equal(data[0][0], x[0] * 3)
    got = fisher_diagonal(model, data, variant="empirical", n_samples=n_samples, seed=3)
    assert torch.equal(data[0][0], x[0] * 3), "the dataset now gives other transforms"
    chosen = slice(None)
    if n_samples:
        chosen = torch.randperm(6, generator=torch.Generator().manual_seed(3))[:n_samples]
    expected = oracles.fisher(model, (x[chosen] * 2, y[chosen]), variant="empirical", likelihood="categorical")
    oracles.assert_close(got, expected, 1e-10)


def test_soft_targets_are_class_probabilities():
    model, (x, _) = doubles("mlp")
    y = torch.rand(6, 3).double()
    y /= y.sum(dim=1, keepdim=True)
    got = fisher_diagonal(model, TensorDataset(x, y), variant="empirical")
    expected = oracles.fisher(model, (x, y), variant="empirical", likelihood="categorical")
    oracles.assert_close(got, expected, 1e-10)


def test_a_forward_of_ones_own():
    """Any call of the model will do, and serves every path."""
    model, (x, y) = doubles("mlp")

    def forward(model, inputs, task_labels):
        return model(inputs * 2)[:, :2]

    expected = oracles.mas(model, (x * 2,), output="vector")  # of three outputs; ours sees the first two
    results = [
        mas_importance(model, TensorDataset(x, y), forward=forward, output="vector", path=path)
        for path in ("auto", "vectorised", "one_at_a_time")
    ]
    for got in results[1:]:
        oracles.assert_close(got, dict(results[0]), 1e-10)
    assert results[0]["4.bias"][2] == 0
    assert expected["4.bias"][2] > 0
    assert torch.allclose(results[0]["4.weight"][:2], expected["4.weight"][:2], rtol=1e-10)


def test_a_large_enough_model_of_everything_agrees_in_float32():
    """Torch's own ResNet block sizes, in the type that users train in."""
    model = resnet()
    samples = torch.randn(5, 2, 8, 8), torch.arange(5) % 3
    got = fisher_diagonal(model, TensorDataset(*samples))
    oracles.assert_close(got, oracles.fisher(model, samples, variant="exact", likelihood="categorical"), 1e-4)
