"""An output without a graph is an error, or is measured where it has one; it is never read as "nothing matters"."""

import copy

import pytest
import torch
import torch.nn.functional as F
from avalanche.benchmarks import nc_benchmark
from avalanche.core import SupervisedPlugin
from avalanche.training import ICaRL
from torch import nn
from torch.utils.data import TensorDataset

from clreg_plugins import EWCPlugin, MASPlugin, SIPlugin, fisher_diagonal, mas_importance
from tests.kinds.comparison import assert_right, expected, measure, mlp, strategy_of, stream

VARIANTS = ("exact", "predicted", "empirical", "mas")
X, Y = torch.randn(12, 6, generator=torch.Generator().manual_seed(3)), torch.arange(12) % 3


def data() -> TensorDataset:
    return TensorDataset(X, Y)


# ------------------------------------------------------- gradients switched off around


@pytest.mark.parametrize("path", ["auto", "vectorised", "one_at_a_time"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_inference_mode_around_the_pass_changes_nothing(variant, path):
    model = mlp()
    with torch.inference_mode():
        got = measure(model, data(), variant, path=path)
        assert torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()
    assert_right(got, expected(model, X, variant, Y if variant == "empirical" else None))
    assert not any(value.is_inference() for value in got.values()), "a result that no later step can change in place"


@pytest.mark.parametrize("options", [{"variant": "batched"}, {"variant": "sample"}])
def test_inference_mode_gives_what_no_grad_gives(options):
    model = mlp()
    with torch.no_grad():
        want = fisher_diagonal(model, data(), **options)
    with torch.inference_mode():
        assert_right(fisher_diagonal(model, data(), **options), want, 1e-6)


def test_samples_made_under_inference_mode():
    with torch.inference_mode():
        made = TensorDataset(X * 1, Y * 1)
    assert made[0][0].is_inference()
    assert_right(fisher_diagonal(mlp(), made), expected(mlp(), X))


def test_parameters_made_under_inference_mode_are_refused_or_measured():
    with torch.inference_mode():
        model = mlp()
    want = expected(mlp(), X)
    try:
        got = fisher_diagonal(model, data())
    except (ValueError, RuntimeError) as error:
        assert "inference" in str(error).lower(), str(error)  # noqa: PT017
    else:
        assert_right(got, want)


def test_a_plugin_that_is_consolidated_under_inference_mode_goes_on_training():
    class Validates(SupervisedPlugin):
        def after_training_exp(self, strategy, **kwargs):
            with torch.inference_mode():
                plugin.consolidate(strategy)

    benchmark, samples = stream()
    plugin, model = EWCPlugin(1.0, consolidation="manual"), mlp()
    strategy = strategy_of(model, [plugin, Validates()])
    strategy.train(benchmark.train_stream[0])
    assert_right(plugin.importance, expected(model, samples[0][0]))
    strategy.train(benchmark.train_stream[1])


# ------------------------------------------------------------ models that lose the graph


class Loses(nn.Module):
    """Loses its graph in the way that ``how`` says."""

    def __init__(self, how):
        super().__init__()
        self.net, self.how = mlp(), how

    def forward(self, x):
        if self.how == "no_grad":
            with torch.no_grad():
                return self.net(x)
        if self.how == "inference_mode":
            with torch.inference_mode():
                return self.net(x)
        z = self.net(x)
        if self.how == "detach":
            return z.detach()
        if self.how == "numpy":
            return torch.from_numpy(z.detach().numpy())
        if self.how == "argmax":
            return F.one_hot(z.argmax(1), 3).float()
        if self.how == "constant":
            return torch.ones(len(x), 3, requires_grad=True) * 2
        return z if self.training else z.detach()


@pytest.mark.parametrize("path", ["auto", "vectorised", "one_at_a_time"])
@pytest.mark.parametrize("variant", ["exact", "batched", "mas"])
@pytest.mark.parametrize("how", ["no_grad", "inference_mode", "detach", "numpy", "argmax", "constant"])
def test_a_model_that_loses_its_graph_is_refused(how, variant, path):
    model = Loses(how)
    with pytest.raises(ValueError, match=r"graph|gradient|depend"):
        measure(model, data(), variant, path=path)
    assert model.training


def test_a_model_that_loses_its_graph_in_eval_mode_alone():
    """It is measured as in training mode, where torch's own layers are in eval mode all the same."""
    model = Loses("eval")
    model.net.insert(2, nn.Dropout(0.9))
    plain = copy.deepcopy(model.net)
    got = fisher_diagonal(model, data())
    assert_right({name.removeprefix("net."): value for name, value in got.items()}, expected(plain, X))
    assert all(module.training for module in model.modules())


def test_batches_without_a_graph_among_others_that_have_one():
    """Samples whose output is a constant have the gradient 0, and count."""

    class Routes(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            chosen = (x[:, 0] > 0).nonzero().flatten()
            z = torch.zeros(len(x), 3, dtype=x.dtype)
            return z.index_copy(0, chosen, self.net(x[chosen])) if len(chosen) else z

    x = X[X[:, 0].argsort()]
    assert float(x[1, 0]) < 0 < float(x[-1, 0]), "the first batch has no sample with a graph"
    for variant in ("exact", "mas"):
        assert_right(measure(Routes(), TensorDataset(x), variant, batch_size=2), expected(Routes(), x, variant))


# --------------------------------------------------- modules whose mode is more than a flag


class LoRA(nn.Linear):
    """Adds x Aᵀ Bᵀ, or has B A added to its weight; subclasses say when."""

    def __init__(self, inputs, outputs, rank=2):
        super().__init__(inputs, outputs)
        self.weight.requires_grad_(False)
        self.bias.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(rank, inputs) * 0.3)
        self.B = nn.Parameter(torch.randn(outputs, rank) * 0.3)
        self.merged = False

    def merge(self, wanted):
        if wanted != self.merged:
            self.weight.data += (1 if wanted else -1) * (self.B.data @ self.A.data)
            self.merged = wanted

    def forward(self, x):
        out = F.linear(x, self.weight, self.bias)
        return out if self.merged else out + x @ self.A.T @ self.B.T


class MergesInTrain(LoRA):
    """As loralib does."""

    def train(self, mode=True):
        super().train(mode)
        self.merge(not mode)
        return self


class MergesInEval(LoRA):
    """Overrides ``eval`` alone; a parent's ``eval`` reaches it by ``train(False)`` and merges nothing."""

    def eval(self):
        self.merge(True)
        return super().eval()

    def train(self, mode=True):
        if mode:
            self.merge(False)
        return super().train(mode)


class KeepsTheBase(MergesInTrain):
    """Puts back a copy of the weight, so that no rounding stays, and deletes what it copied."""

    def merge(self, wanted):
        if wanted and not self.merged:
            self.base = self.weight.data.clone()
            self.weight.data = self.base + self.B.data @ self.A.data
        elif not wanted and self.merged:
            self.weight.data = self.base
            del self.base
        self.merged = wanted


class Swaps(nn.Module):
    """Puts another submodule in its place in eval mode, made of the one that it trains."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def train(self, mode=True):
        super().train(mode)
        if not mode and isinstance(self.layer, nn.Linear):
            self.kept = [self.layer]
            fused = nn.Linear(6, 4)
            fused.load_state_dict(self.layer.state_dict())
            self.layer = nn.Sequential(fused.requires_grad_(False))
        elif mode and not isinstance(self.layer, nn.Linear):
            self.layer = self.kept.pop()
            del self.kept
        return self

    def forward(self, x):
        return self.layer(x)


class Reparametrised(nn.Module):
    """Two parallel layers in training, their sum in eval mode (RepVGG)."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 4)
        self.fused = None

    def train(self, mode=True):
        super().train(mode)
        self.fused = None if mode else (self.a.weight.data + self.b.weight.data, self.a.bias.data + self.b.bias.data)
        return self

    def forward(self, x):
        return self.a(x) + self.b(x) if self.fused is None else F.linear(x, *self.fused)


def with_a_mode(kind):
    torch.manual_seed(0)
    first = kind(6, 4) if issubclass(kind, LoRA) else kind()
    return nn.Sequential(first, nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 3)).train()


def never_switched(model):
    """The same function in which nothing happens in ``train`` or ``eval`` but the flag."""
    model = copy.deepcopy(model)
    kind = type(model[0])
    flag_only = {"train": nn.Module.train, "eval": nn.Module.eval}
    model[0].__class__ = type("FlagOnly", (kind,), flag_only)
    return model


MODES = [MergesInTrain, MergesInEval, KeepsTheBase, Swaps, Reparametrised]


@pytest.mark.parametrize("path", ["auto", "one_at_a_time"])
@pytest.mark.parametrize("variant", ["exact", "empirical", "mas"])
@pytest.mark.parametrize("kind", MODES)
def test_a_module_whose_mode_is_more_than_a_flag(kind, variant, path):
    model = with_a_mode(kind)
    want = expected(never_switched(model), X, variant, Y if variant == "empirical" else None)
    before, attributes = copy.deepcopy(model.state_dict()), set(vars(model[0]))
    got = measure(model, data(), variant, path=path)
    assert_right(got, want)
    assert all(module.training for module in model.modules()), "a mode has changed"
    assert not getattr(model[0], "merged", False), "it is merged"
    assert set(vars(model[0])) == attributes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} is off by {(value - before[name]).abs().max():.3g}"
    model(X).sum().backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, f"the next training step has no gradient for {missing}"


@pytest.mark.parametrize("kind", [MergesInTrain, MergesInEval, KeepsTheBase])
def test_a_module_that_is_merged_already_stays_so(kind):
    """Its factors reach nothing then: the numbers are those of the unmerged model, or there are none."""
    model = with_a_mode(kind)
    want = expected(never_switched(model), X)
    model.eval()
    model[0].eval()
    before = copy.deepcopy(model.state_dict())
    try:
        got = fisher_diagonal(model, data())
    except ValueError as error:
        assert "eval" in str(error) or "train" in str(error)  # noqa: PT017
    else:
        assert_right(got, want)
    assert model[0].merged
    assert not model[0].training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} is off by {(value - before[name]).abs().max():.3g}"


def test_a_module_whose_mode_is_more_than_a_flag_in_a_strategy():
    benchmark, samples = stream()
    model, plugin = with_a_mode(MergesInTrain), EWCPlugin(1.0)
    strategy = strategy_of(model, [plugin])
    strategy.train(benchmark.train_stream[0])
    assert_right(plugin.importance, expected(never_switched(model), samples[0][0]))
    before = model[0].A.detach().clone()
    strategy.train(benchmark.train_stream[1])
    assert not torch.equal(model[0].A, before), "its factors were trained no further"


# ------------------------------------------------------ models with another head in eval mode


def icarl(plugin):
    torch.manual_seed(0)
    features = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 5))
    classifier = nn.Linear(5, 4)
    return ICaRL(
        feature_extractor=features,
        classifier=classifier,
        optimizer=torch.optim.SGD([*features.parameters(), *classifier.parameters()], 0.05),
        memory_size=20,
        buffer_transform=None,
        fixed_memory=True,
        train_mb_size=10,
        plugins=[plugin],
        evaluator=None,
    )


def four_classes():
    y = torch.arange(40) % 4
    whole = TensorDataset(torch.randn(40, 6) + 2.0 * F.one_hot(y, 6), y)
    whole.targets = y.tolist()
    return nc_benchmark(whole, whole, 2, task_labels=False, seed=0)


@pytest.mark.parametrize("consolidation", ["experience", "manual"])
@pytest.mark.parametrize("variant", ["exact", "mas"])
def test_icarl_is_measured_by_its_training_classifier(variant, consolidation):
    if variant == "mas":
        plugin = MASPlugin(1.0, consolidation=consolidation)
    else:
        plugin = EWCPlugin(1.0, likelihood="categorical", consolidation=consolidation)
    strategy, benchmark = icarl(plugin), four_classes()
    experience = benchmark.train_stream[0]
    x = torch.stack([experience.dataset.eval()[n][0] for n in range(len(experience.dataset))])
    strategy.train(experience)
    if consolidation == "manual":
        plugin.consolidate(strategy, experience.dataset)
    want = expected(strategy.model, x, variant, outputs=lambda m, v: m.train_classifier(m.feature_extractor(v)))
    assert_right(plugin.importance, want)
    strategy.train(benchmark.train_stream[1])


def test_si_beside_icarl():
    plugin = SIPlugin(1.0)
    icarl(plugin).train(four_classes().train_stream[0])
    assert plugin.importance["train_classifier.weight"].any()


class OtherHead(nn.Module):
    """In eval mode a label, a nearest mean or a probability without a graph."""

    def __init__(self, in_eval):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5))
        self.head, self.in_eval = nn.Linear(5, 3), in_eval
        self.register_buffer("means", torch.randn(3, 5))

    def forward(self, x):
        f = self.features(x)
        if self.training:
            return self.head(f)
        if self.in_eval == "label":
            return self.head(f).argmax(1)
        if self.in_eval == "one-hot":
            return F.one_hot(self.head(f).argmax(1), 3).to(f)
        if self.in_eval == "probability":
            return self.head(f).detach().softmax(1)
        return -torch.cdist(f.detach(), self.means)


@pytest.mark.parametrize("variant", ["exact", "mas"])
@pytest.mark.parametrize("in_eval", ["label", "one-hot", "probability", "nearest mean"])
def test_models_with_another_head_in_eval_mode(in_eval, variant):
    torch.manual_seed(0)
    model = OtherHead(in_eval)
    model(X)  # moves the running statistics
    want = expected(model, X, variant, outputs=lambda m, v: m.head(m.features(v)))
    before = copy.deepcopy(model.state_dict())
    assert_right(measure(model, data(), variant), want)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("measured", [fisher_diagonal, mas_importance])
def test_another_head_beside_a_draw_of_training_mode_is_refused(measured):
    """Training mode is the one with a graph, but there the functional dropout draws."""

    class Draws(OtherHead):
        def forward(self, x):
            return super().forward(F.dropout(x, 0.5, self.training))

    model = Draws("one-hot")
    with pytest.raises(ValueError, match=r"eval|train|draw|random"):
        measured(model, data())
    assert all(module.training for module in model.modules())
