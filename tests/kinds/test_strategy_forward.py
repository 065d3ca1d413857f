"""What the strategy does around its model is what was trained, so it is what is measured."""

from collections import UserDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.core import SupervisedPlugin
from avalanche.models import avalanche_forward
from avalanche.training import Naive
from torch import nn

from clreg_plugins import EWCPlugin, L2Plugin, MASPlugin, OnlineEWCPlugin, SIPlugin
from tests.kinds.comparison import assert_right, expected, mlp, strategy_of, stream

PLUGINS = {
    "exact": lambda: EWCPlugin(1.0),
    "empirical": lambda: OnlineEWCPlugin(1.0, fisher="empirical"),
    "predicted": lambda: EWCPlugin(1.0, fisher="predicted"),
    "mas": lambda: MASPlugin(1.0),
}


class InForward(Naive):
    def forward(self):
        return self.model(self.mb_x * 10 + 3)


class InForwardByMinibatch(Naive):
    """Reads the minibatch itself, and calls the model as Avalanche does."""

    def forward(self):
        return avalanche_forward(self.model, self.mbatch[0] * 10 + 3, torch.zeros(len(self.mbatch[0])))


class InProperty(Naive):
    @property
    def mb_x(self):
        return self.mbatch[0] * 10 + 3


class InUnpacking(Naive):
    def _unpack_minibatch(self):
        super()._unpack_minibatch()
        self.mbatch[0] = self.mbatch[0] * 10 + 3


class UnpacksToADict(Naive):
    """The minibatch is a dict from here on."""

    def _unpack_minibatch(self):
        x, y = self.mbatch
        self.mbatch = {"pixels": x * 10 + 3, "labels": y}

    @property
    def mb_x(self):
        return self.mbatch["pixels"]

    @property
    def mb_y(self):
        return self.mbatch["labels"]


@dataclass
class Pair:
    """A minibatch as an object."""

    x: torch.Tensor
    y: torch.Tensor


class UnpacksToAnObject(Naive):
    def _unpack_minibatch(self):
        self.mbatch = Pair(self.mbatch[0] * 10 + 3, self.mbatch[1])

    @property
    def mb_x(self):
        return self.mbatch.x

    @property
    def mb_y(self):
        return self.mbatch.y

    def forward(self):
        return self.model(self.mb_x)


class ByAnAttribute(Naive):
    """Normalises by what it holds itself."""

    scale = 10

    def forward(self):
        return super().forward()

    def _unpack_minibatch(self):
        super()._unpack_minibatch()
        self.mbatch = [self.mbatch[0] * self.scale + 3, *self.mbatch[1:]]


KINDS = [InForward, InForwardByMinibatch, InProperty, InUnpacking, UnpacksToADict, UnpacksToAnObject, ByAnAttribute]


@pytest.mark.parametrize("variant", PLUGINS)
@pytest.mark.parametrize("kind", KINDS)
def test_inputs_that_the_strategy_normalises(kind, variant):
    benchmark, samples = stream()
    model, plugin = mlp(), PLUGINS[variant]()
    strategy = strategy_of(model, [plugin], kind)
    strategy.train(benchmark.train_stream[0])
    x, y = samples[0]
    assert_right(plugin.importance, expected(model, x * 10 + 3, variant, y if variant == "empirical" else None))
    strategy.train(benchmark.train_stream[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_consolidation_by_hand_goes_the_same_way(kind):
    """After training, on a dataset of the caller's, when the strategy has no minibatch any more."""
    benchmark, samples = stream()
    model, plugin = mlp(), EWCPlugin(1.0, consolidation="manual")
    strategy = strategy_of(model, [plugin], kind)
    strategy.train(benchmark.train_stream[0])
    plugin.consolidate(strategy, benchmark.train_stream[1].dataset)
    assert_right(plugin.importance, expected(model, samples[1][0] * 10 + 3))


@pytest.mark.parametrize("variant", ["empirical", "batched"])
def test_labels_that_the_strategy_changes(variant):
    class Remaps(Naive):
        @property
        def mb_y(self):
            return (self.mbatch[1] + 1) % 3

    benchmark, samples = stream()
    found = []
    for kind, labels in ((Remaps, samples[0][1]), (Naive, (samples[0][1] + 1) % 3)):
        plugin, model = EWCPlugin(1.0, fisher=variant), mlp()
        data, _ = (benchmark, None) if kind is Remaps else stream(labels=lambda y: (y + 1) % 3)
        strategy_of(model, [plugin], kind, lr=0.0).train(data.train_stream[0])
        found.append(plugin.importance)
        if variant == "empirical":
            want = expected(model, samples[0][0], variant, labels if kind is Naive else (labels + 1) % 3)
            assert_right(plugin.importance, want)
    assert_right(found[0], found[1])


# ------------------------------------------------------------------- outputs


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = self.a(x).tanh()
        return {"logits": self.b(h), "features": h}


class PicksLogits(Naive):
    def forward(self):
        return self.model(self.mb_x)["logits"]


class PicksFeatures(Naive):
    """What it trains is no output called logits."""

    def forward(self):
        return self.model(self.mb_x)["features"][:, :3]


@pytest.mark.parametrize("variant", PLUGINS)
def test_outputs_that_the_strategy_picks(variant):
    benchmark, samples = stream()
    x, y = samples[0]
    for kind, pick in ((PicksLogits, lambda z: z["logits"]), (PicksFeatures, lambda z: z["features"][:, :3])):
        model, plugin = TwoOutputs(), PLUGINS[variant]()
        strategy_of(model, [plugin], kind).train(benchmark.train_stream[0])
        labels = y if variant == "empirical" else None
        assert_right(plugin.importance, expected(model, x, variant, labels, lambda m, v, pick=pick: pick(m(v))))


@pytest.mark.parametrize("plugin", [SIPlugin, L2Plugin])
def test_methods_without_a_pass_take_any_output(plugin):
    benchmark, _ = stream()
    strategy = strategy_of(TwoOutputs(), [plugin(1.0)], PicksLogits)
    for experience in benchmark.train_stream:
        strategy.train(experience)


def test_a_strategy_that_keeps_what_it_computes():
    """Its attributes after an experience are those of its last training step, not of the pass."""

    class Keeps(Naive):
        def forward(self):
            self.features = self.model[1](self.model[0](self.mb_x))
            self.steps = getattr(self, "steps", 0) + 1
            return self.model[2](self.features)

    class Watches(SupervisedPlugin):
        def after_training_epoch(self, strategy, **kwargs):
            self.seen = dict(vars(strategy))

        def after_training_exp(self, strategy, **kwargs):
            self.changed = [
                name for name in ("mbatch", "mb_output", "loss", "features", "steps", "is_training", "dataloader")
                if self.seen[name] is not getattr(strategy, name) and self.seen[name] != getattr(strategy, name)
            ]  # fmt: skip

    benchmark, samples = stream()
    model, plugin, watches = mlp(), EWCPlugin(1.0), Watches()
    strategy = strategy_of(model, [plugin, watches], Keeps)
    strategy.train(benchmark.train_stream[0])
    assert not watches.changed, f"the pass changed the strategy's {watches.changed}"
    assert strategy.steps == 2, f"{strategy.steps} forward passes are counted after 2 training steps"
    assert_right(plugin.importance, expected(model, samples[0][0]))


# --------------------------------------------------- criteria, wrapped models, batches of dicts


class Halved(Naive):
    def criterion(self):
        return self._criterion(self.mb_output / 2, self.mb_y)


@pytest.mark.parametrize("kind", [EWCPlugin, OnlineEWCPlugin])
def test_a_criterion_method_of_the_strategys_own_needs_a_likelihood(kind):
    benchmark, samples = stream()
    model = mlp()
    before = [p.detach().clone() for p in model.parameters()]
    strategy = strategy_of(model, [kind(1.0)], Halved)
    with pytest.raises(ValueError, match="likelihood"):
        strategy.train(benchmark.train_stream[0])
    assert strategy.clock.train_iterations == 0, "it trained before the error"
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    plugin = kind(1.0, likelihood="categorical")
    strategy_of(model, [plugin], Halved).train(benchmark.train_stream[0])
    assert_right(plugin.importance, expected(model, samples[0][0]))


def test_a_criterion_method_that_the_class_above_overrides():
    class Below(Halved):
        pass

    benchmark, _ = stream()
    with pytest.raises(ValueError, match="likelihood"):
        strategy_of(mlp(), [EWCPlugin(1.0)], Below).train(benchmark.train_stream[0])
    strategy_of(mlp(), [MASPlugin(1.0)], Below).train(benchmark.train_stream[0])


class Wrapper(nn.Module):
    """The model and what it adds to its inputs."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x * 10 + 3)


@pytest.mark.parametrize("when", ["before_training_exp", "before_training_epoch", "after_training_epoch"])
def test_a_model_that_is_replaced_by_a_wrapper(when):
    class Wraps(SupervisedPlugin):
        pass

    def wrap(self, strategy, **kwargs):
        if not isinstance(strategy.model, Wrapper):
            strategy.model = Wrapper(strategy.model)

    setattr(Wraps, when, wrap)
    benchmark, samples = stream()
    for order in (0, 1):
        plugin, model = EWCPlugin(1.0), mlp()
        plugins = [plugin, Wraps()] if order else [Wraps(), plugin]
        strategy = strategy_of(model, plugins)
        strategy.train(benchmark.train_stream[0])
        want = expected(strategy.model, samples[0][0])
        assert_right({name: plugin.importance[name] for name in want}, want)  # in addition to the earlier names


class Dicts(torch.utils.data.Dataset):
    """Samples as dicts, as a tokenizer gives them."""

    def __init__(self, x, y):
        self.x, self.y, self.targets = x, y, y.tolist()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, n):
        return {"features": self.x[n], "scale": torch.tensor(float(n % 3 + 1)), "labels": self.y[n]}


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, features, scale, labels=None):
        return {"logits": self.net(features * scale[:, None]), "loss": None}


class OfDicts(Naive):
    """Avalanche's own way with dicts: mbatch is one, and the properties read it."""

    @property
    def mb_x(self):
        return self.mbatch["features"]

    @property
    def mb_y(self):
        return self.mbatch["labels"]

    @property
    def mb_task_id(self):
        return torch.zeros(len(self.mb_y)).long()

    def _unpack_minibatch(self):
        for key in self.mbatch:
            self.mbatch[key] = self.mbatch[key].to(self.device)

    def forward(self):
        return self.model(features=self.mb_x, scale=self.mbatch["scale"], labels=self.mb_y)["logits"]


def collated(kind: type, batch: list[dict[str, Any]]) -> Any:
    return kind({key: torch.stack([sample[key] for sample in batch]) for key in ("features", "scale", "labels")})


@pytest.mark.parametrize("container", [dict, UserDict])
@pytest.mark.parametrize("variant", PLUGINS)
def test_a_strategy_that_unpacks_dicts(variant, container):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(24, 6, generator=generator), torch.arange(24) % 3
    targets = DataAttribute(y.tolist(), "targets")
    data = AvalancheDataset(
        [Dicts(x, y)], data_attributes=[targets], collate_fn=lambda batch: collated(container, batch)
    )
    benchmark = benchmark_from_datasets(train=[data])
    model, plugin = Scaled(), PLUGINS[variant]()
    strategy = strategy_of(model, [plugin], OfDicts)
    strategy.train(benchmark.train_stream[0])
    scaled = x * (torch.arange(24) % 3 + 1)[:, None]
    labels = y if variant == "empirical" else None
    want = expected(model, scaled, variant, labels, lambda m, v: m.net(v))
    assert_right(plugin.importance, want)
