"""A pass computes in the precision of its parameters, wherever they lie, and takes rounding for what it is."""

import multiprocessing
import warnings

import pytest
import torch
import torch.nn.functional as F
from avalanche.training import Naive
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, TensorDataset

from clreg_plugins import EWCPlugin, MASPlugin, OnlineEWCPlugin, fisher_diagonal, mas_importance
from tests.kinds.comparison import assert_right, expected, measure, mlp, strategy_of, stream

VARIANTS = ("exact", "sample", "predicted", "empirical", "batched", "mas")
X, Y = torch.randn(12, 6, generator=torch.Generator().manual_seed(7)), torch.arange(12) % 3


def data() -> TensorDataset:
    return TensorDataset(X, Y)


# ------------------------------------------------------------------- autocast around


@pytest.mark.parametrize("path", ["auto", "vectorised", "one_at_a_time"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_around_the_pass_plays_no_part(dtype, variant, path):
    model = mlp()
    want = measure(model, data(), variant, path=path)
    with torch.autocast("cpu", dtype=dtype):
        model(X)  # fills autocast's cache of weights
        got = measure(model, data(), variant, path=path)
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == dtype
        assert model(X).dtype == dtype
    assert_right(got, want, 1e-6)


def test_autocast_around_a_strategy():
    """The whole of training under autocast: importance has the parameters' precision all the same."""
    benchmark, samples = stream()
    model, plugin = mlp(), EWCPlugin(1.0)
    strategy = strategy_of(model, [plugin])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        strategy.train(benchmark.train_stream[0])
    assert_right(plugin.importance, expected(model, samples[0][0]))


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_another_default_type_around_the_pass(default):
    model = mlp()
    want = expected(model, X)
    torch.set_default_dtype(default)
    try:
        got = fisher_diagonal(model, data())
        assert torch.get_default_dtype() == default
    finally:
        torch.set_default_dtype(torch.float32)
    assert_right(got, want)
    assert {value.dtype for value in got.values()} == {torch.float32}


class Autocasts(nn.Module):
    """Computes in bfloat16 by its own decision, in whole or in part."""

    def __init__(self, whole):
        super().__init__()
        self.net, self.whole = mlp(), whole

    def forward(self, x):
        if self.whole:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.net(x).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.net[0](x)
        return self.net[2](h.float().tanh())


class InFloat64(nn.Module):
    """A part in float64, as losses and solvers are."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        h = self.net[0](x).double()
        return F.linear((h.exp() / (1 + h.exp())).float(), self.net[2].weight, self.net[2].bias)


def one_at_a_time_in_its_own_precision(model, x):
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    for n in range(len(x)):
        log_p = model(x[n : n + 1]).double().log_softmax(1)[0]
        for c in range(len(log_p)):
            found = torch.autograd.grad(log_p[c], list(model.parameters()), retain_graph=True)
            for name, g in zip(total, found, strict=True):
                total[name] += float(log_p[c].detach().exp()) * g.double() ** 2 / len(x)
    return total


@pytest.mark.parametrize("model", [Autocasts(True), Autocasts(False), InFloat64()], ids=["whole", "part", "float64"])
def test_a_precision_of_the_models_own_stays_and_raises_no_alarm(model):
    torch.manual_seed(0)
    x = torch.randn(40, 6)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        got = fisher_diagonal(model, TensorDataset(x))
    assert_right(got, one_at_a_time_in_its_own_precision(model, x), 0.03)
    assert not [str(w.message) for w in seen if "fast rule" in str(w.message)]
    with torch.autocast("cpu", dtype=torch.float16):
        assert_right(fisher_diagonal(model, TensorDataset(x)), got, 1e-6)


def test_autocast_in_the_strategys_forward_is_its_own():
    class Mixed(Naive):
        def forward(self):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward().float()

    benchmark, samples = stream()
    model, plugin = mlp(), EWCPlugin(1.0)
    strategy_of(model, [plugin], Mixed).train(benchmark.train_stream[0])
    assert_right(plugin.importance, expected(model, samples[0][0]), 0.05)


# ------------------------------------------------------- parameters of other types, devices


class QuantisedLoRA(nn.Module):
    """A frozen base in a small type, which is widened when it is used, and two trained factors."""

    def __init__(self, dtype):
        super().__init__()
        torch.manual_seed(0)
        weight = torch.randn(5, 6)
        if not dtype.is_floating_point:
            weight = (weight * 20).clamp(-100, 100).abs() if dtype == torch.uint8 else (weight * 20).clamp(-100, 100)
        self.base = nn.Parameter(weight.to(dtype), requires_grad=False)
        self.A, self.B = nn.Parameter(torch.randn(2, 6) * 0.3), nn.Parameter(torch.randn(5, 2) * 0.3)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        weight = self.base.to(x.dtype) * (1.0 if self.base.dtype.is_floating_point else 0.05)
        return self.head((F.linear(x, weight) + x @ self.A.T @ self.B.T).tanh())


SMALL = [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8, torch.bfloat16, torch.float16]


def widened(model):
    """Its numbers in float64: its base is a buffer that double() leaves alone, where it is a whole number."""
    wide = QuantisedLoRA(torch.float32)
    wide.load_state_dict({**model.state_dict(), "base": torch.zeros(5, 6)})
    scale = 1.0 if model.base.dtype.is_floating_point else 0.05
    wide.base.data = model.base.float() * scale
    return wide


@pytest.mark.parametrize("dtype", SMALL, ids=str)
@pytest.mark.parametrize("variant", ["exact", "empirical", "mas"])
def test_a_frozen_base_in_a_small_type(variant, dtype):
    model = QuantisedLoRA(dtype)
    want = expected(widened(model), X, variant, Y if variant == "empirical" else None)
    before = model.base.clone()
    got = measure(model, data(), variant)
    trained = {name: value for name, value in got.items() if name != "base"}
    assert_right(trained, {name: value for name, value in want.items() if name != "base"})
    assert not got.get("base", torch.zeros(1)).any()
    assert torch.equal(model.base.view(torch.uint8), before.view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint8], ids=str)
@pytest.mark.parametrize("kind", [EWCPlugin, OnlineEWCPlugin, MASPlugin])
def test_a_frozen_base_in_a_small_type_in_a_strategy(kind, dtype):
    benchmark, samples = stream()
    model, plugin = QuantisedLoRA(dtype), kind(1.0)
    strategy = strategy_of(model, [plugin])
    for experience in benchmark.train_stream:
        strategy.train(experience)
        plugin.state_dict()
    assert plugin.importance["A"].any()
    assert len(samples) == 2


def test_a_frozen_parameter_that_is_complex():
    class WithPhase(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()
            self.phase = nn.Parameter(torch.ones(6, dtype=torch.complex64) * 1j, requires_grad=False)

        def forward(self, x):
            return self.net((x * self.phase).imag)

    model = WithPhase()
    try:
        got = fisher_diagonal(model, data())
    except ValueError as error:
        if "phase" not in str(error):
            raise
    else:
        want = expected(model, X, outputs=lambda m, v: m.net(v))
        assert_right({name: got[name] for name in want if name != "phase"}, {n: want[n] for n in want if n != "phase"})


@pytest.fixture
def another_default_device():
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize("path", ["auto", "vectorised", "one_at_a_time"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_another_default_device_around_the_pass(variant, path, another_default_device):
    """Whatever the pass makes, it makes where the parameters lie. A tensor on "meta" holds no numbers."""
    with torch.device("cpu"):
        model = mlp()
        want = measure(model, data(), variant, path=path)
    got = measure(model, data(), variant, path=path)
    assert torch.get_default_device().type == "meta"
    assert_right(got, want, 1e-6)
    assert_right(measure(model, data(), variant, n_samples=5), measure(model, data(), variant, n_samples=5))


@pytest.mark.parametrize("kind", [EWCPlugin, OnlineEWCPlugin, MASPlugin])
def test_another_default_device_around_a_consolidation(kind, another_default_device):
    with torch.device("cpu"):
        benchmark, _ = stream()
        model, plugin = mlp(), kind(1.0, consolidation="manual")
        strategy = strategy_of(model, [plugin], device="cpu")
        strategy.train(benchmark.train_stream[0])
    plugin.consolidate(strategy, data())
    assert {value.device.type for value in plugin.importance.values()} == {"cpu"}
    assert plugin.importance["0.weight"].any()


class WithoutFloat64(TorchDispatchMode):
    """Refuses what a device without float64 would: to make float64 of tensors of float32, or to mix the two.

    Tensors of float64 alone, and what becomes float32 of them, are taken for the host's.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.ndim]
        made = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor) and t.ndim]
        float32, float64 = ([t for t in given + made if t.dtype == d] for d in (torch.float32, torch.float64))
        host = all(t.dtype == torch.float64 for t in given if t.is_floating_point())
        if float32 and float64 and not host:
            raise TypeError(f"{func} needs float64 on a device that has none")
        return out


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "gaussian"])
def test_a_device_without_float64(variant, likelihood):
    if (variant, likelihood) == ("predicted", "gaussian") or (variant == "mas" and likelihood != "categorical"):
        pytest.skip("there is no such variant")
    targets = Y if likelihood == "categorical" else (torch.randn(12, 3) > 0).float()
    samples, options = TensorDataset(X, targets), {} if variant == "mas" else {"likelihood": likelihood}
    want = measure(mlp(), samples, variant, **options)
    with WithoutFloat64():
        got = measure(mlp(), samples, variant, **options)
    assert_right(got, want, 1e-6)


# --------------------------------------------------------------------- TF32 by either API


def _settings(wanted, results):
    torch.set_num_threads(1)
    try:
        model = mlp()
        want = expected(model, X)
        for path, value in wanted:
            *owner, name = path.split(".")
            place = torch.backends
            for part in owner:
                place = getattr(place, part)
            setattr(place, name, value)
        if not wanted:
            torch.set_float32_matmul_precision("medium")
        for run in (fisher_diagonal, mas_importance):
            got = run(model, TensorDataset(X, Y))
            if run is fisher_diagonal:
                assert_right(got, want)
        for path, value in wanted:
            place = torch.backends
            for part in path.split("."):
                place = getattr(place, part)
            assert place == value, f"{path} is {place!r}, not {value!r}"
        assert wanted or torch.get_float32_matmul_precision() == "medium"
        results.put("")
    except BaseException as error:
        results.put(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize(
    "wanted",
    [
        [],  # torch.set_float32_matmul_precision("medium")
        [("cuda.matmul.fp32_precision", "tf32")],
        [("cuda.matmul.fp32_precision", "ieee")],
        [("cudnn.conv.fp32_precision", "tf32"), ("cudnn.rnn.fp32_precision", "ieee")],
        [("fp32_precision", "tf32")],
        [("cudnn.fp32_precision", "tf32")],
        [("mkldnn.matmul.fp32_precision", "bf16")],
        [("mkldnn.fp32_precision", "bf16"), ("cuda.matmul.fp32_precision", "tf32")],
        [("cuda.matmul.allow_tf32", True), ("cudnn.allow_tf32", False)],
        [("cuda.matmul.allow_tf32", True), ("cudnn.conv.fp32_precision", "tf32")],
        [("cudnn.enabled", False), ("cudnn.benchmark", True), ("cudnn.deterministic", True)],
    ],
    ids=lambda wanted: ", ".join(f"{path} {value}" for path, value in wanted) or "medium",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_settings_of_backends_are_kept_by_either_api(wanted):
    """In a process of its own, since either way of setting forbids reading by the other."""
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    process = fork.Process(target=_settings, args=(wanted, results))
    process.start()
    said = results.get()
    process.join()
    assert not said, said


# ------------------------------------------------------------- gradients that are zero


class Attention(nn.Module):
    """Query, key and value as three layers; softmax does not feel the key's bias."""

    def __init__(self, d=8, heads=2):
        super().__init__()
        self.heads, self.embed, self.head = heads, nn.Embedding(30, d), nn.Linear(d, 3)
        self.query, self.key, self.value, self.out = (nn.Linear(d, d) for _ in range(4))

    def forward(self, tokens):
        x = self.embed(tokens)
        n, length, d = x.shape
        q, k, v = (f(x).view(n, length, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        mixed = (q @ k.transpose(2, 3) / (d // self.heads) ** 0.5).softmax(-1) @ v
        return self.head(self.out(mixed.transpose(1, 2).reshape(n, length, d)).mean(1))


class Pooling(nn.Module):
    """Attention over positions by one score each, whose bias the softmax does not feel."""

    def __init__(self):
        super().__init__()
        self.value, self.score, self.head = nn.Linear(4, 5), nn.Linear(4, 1), nn.Linear(5, 3)

    def forward(self, x):
        return self.head((self.score(x).softmax(1) * self.value(x)).sum(1).tanh())


class Standardised(nn.Module):
    """Its features without their mean and over their deviation: a shift of all biases is not felt."""

    def __init__(self):
        super().__init__()
        self.one, self.shift, self.head = nn.Linear(4, 1), nn.Linear(1, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.one(x)
        h = h.expand(-1, 3) - h.mean(1, keepdim=True)
        return self.head(self.shift(h[:, :1]).tanh() + x.sum(1, keepdim=True))


ZEROS = {
    "key bias": (Attention, lambda: torch.randint(0, 30, (40, 6))),
    "bias before InstanceNorm2d": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)
        ),
        lambda: torch.randn(20, 3, 6, 6),
    ),
    "bias before InstanceNorm1d": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3), nn.InstanceNorm1d(4, affine=True), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)
        ),
        lambda: torch.randn(20, 2, 8),
    ),
    "bias before GroupNorm": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.GroupNorm(4, 4), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)),
        lambda: torch.randn(20, 2, 8),
    ),
    "bias of a score": (Pooling, lambda: torch.randn(30, 5, 4)),
    "all of a layer": (Standardised, lambda: torch.randn(30, 4)),
    "dead units": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.Hardtanh(-1e-3, 1e-3), nn.Linear(6, 3)),
        lambda: 100 * torch.randn(30, 4),
    ),
}


@pytest.mark.parametrize("variant", ["exact", "empirical", "mas"])
@pytest.mark.parametrize("kind", ZEROS)
def test_a_gradient_that_is_zero_raises_no_alarm(kind, variant):
    build, inputs = ZEROS[kind]
    for seed in range(2):
        torch.manual_seed(seed)
        model, x = build(), inputs()
        y = torch.arange(len(x)) % 3
        want = expected(model, x, variant, y if variant == "empirical" else None)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            got = measure(model, DataLoader(TensorDataset(x, y), batch_size=10), variant)
        assert_right(got, want)
        assert not seen, [str(w.message) for w in seen]
        norms = [n for n, m in model.named_modules() if isinstance(m, nn.modules.instancenorm._InstanceNorm)]
        slow = {
            name: path
            for name, path in got.paths.items()
            if path not in ("rule", "unused") and name.split(".")[0] not in norms  # which have no rule
        }
        assert not slow, f"these take the slow path: {slow}"
