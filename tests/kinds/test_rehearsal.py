"""One small batch goes through the whole pass before training: what would fail after it fails before; nothing stays."""

import random

import numpy as np
import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset, make_avalanche_dataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.benchmarks.utils.transform_groups import TransformGroups
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from torch import nn
from torch.utils.data import TensorDataset

from clreg_plugins import EWCPlugin, MASPlugin, OnlineEWCPlugin
from tests.kinds.comparison import assert_right, expected, mlp, strategy_of, stream
from tests.kinds.whole_state import differences, process_state, state_of

PLUGINS = {
    "exact": lambda **o: EWCPlugin(1.0, **o),
    "sample": lambda **o: OnlineEWCPlugin(1.0, fisher="sample", **o),
    "empirical": lambda **o: EWCPlugin(1.0, fisher="empirical", **o),
    "batched": lambda **o: EWCPlugin(1.0, fisher="batched", **o),
    "mas": lambda **o: MASPlugin(1.0, **o),
    "mas batched": lambda **o: MASPlugin(1.0, per_sample=False, **o),
}


class Odd(nn.Module):
    """Trains well, and cannot be measured for the reason that ``how`` says."""

    def __init__(self, how):
        super().__init__()
        self.net, self.how = mlp(), how
        if how == "complex":
            self.phase = nn.Parameter(torch.ones(3, dtype=torch.complex64))
        if how == "no statistics":
            self.net.insert(1, nn.BatchNorm1d(5, track_running_stats=False))

    def forward(self, x):
        z = self.net(x)
        if self.how == "complex":
            z = (z * self.phase).real
        if self.training:
            return z
        if self.how == "mixes":
            return z - z.mean(0)
        if self.how == "one row":
            return z.sum(0, keepdim=True)
        if self.how == "scalar":
            return z.sum()
        if self.how == "tuple":
            return (z, z)
        if self.how == "nan":
            return z * float("nan")
        return z


@pytest.mark.parametrize("how", ["complex", "no statistics", "mixes", "one row", "scalar", "tuple", "nan"])
@pytest.mark.parametrize("variant", ["exact", "mas"])
def test_models_that_cannot_be_measured_fail_before_training(variant, how):
    benchmark, _ = stream()
    model, plugin = Odd(how), PLUGINS[variant]()
    strategy = strategy_of(model, [plugin])
    before, process = state_of(model), process_state()
    with pytest.raises((ValueError, TypeError, FloatingPointError)):
        strategy.train(benchmark.train_stream[0])
    assert strategy.clock.train_iterations == 0, f"{strategy.clock.train_iterations} steps were trained first"
    assert plugin.penalty.n_terms == 0
    after = state_of(model)
    assert not [text for text in differences(before, after) if "training" not in text]
    assert not differences(process, process_state())


def float_labels():
    x, y = torch.randn(24, 6), (torch.arange(24) % 3).float()
    data = TensorDataset(x, y)
    data.targets = y.long().tolist()
    return benchmark_from_datasets(train=[as_classification_dataset(data)])


class RoundsLabels(Naive):
    """Trains on labels that are numbers with a point."""

    def criterion(self):
        return self._criterion(self.mb_output, self.mb_y.long())


def too_high():
    return stream(labels=lambda y: y + 3)[0]


class WrapsLabels(Naive):
    """Trains on labels modulo the number of classes."""

    def criterion(self):
        return self._criterion(self.mb_output, self.mb_y % 3)


@pytest.mark.parametrize("fisher", ["empirical", "batched"])
@pytest.mark.parametrize(
    ("benchmark", "kind"), [(float_labels, RoundsLabels), (too_high, WrapsLabels)], ids=["numbers", "too high"]
)
def test_labels_that_cannot_be_measured_fail_before_training(benchmark, kind, fisher):
    plugin = EWCPlugin(1.0, fisher=fisher, likelihood="categorical")
    strategy = strategy_of(mlp(), [plugin], kind)
    with pytest.raises((ValueError, TypeError), match=r"label|target|probabilit"):
        strategy.train(benchmark().train_stream[0])
    assert strategy.clock.train_iterations == 0, f"{strategy.clock.train_iterations} steps were trained first"


@pytest.mark.parametrize("option", [{"batch_size": 7}, {"num_workers": 1}, {"n_samples": 3}, {"max_bytes": 2**12}])
@pytest.mark.parametrize("variant", PLUGINS)
def test_options_that_are_fine_stay_so(variant, option):
    benchmark, _ = stream()
    plugin = PLUGINS[variant](**option)
    strategy = strategy_of(mlp(), [plugin])
    strategy.train(benchmark.train_stream[0])
    assert plugin.importance["0.weight"].any()


def test_data_whose_eval_transform_fails_fails_before_training():
    """Training never uses it; the pass does."""

    def broken(x):
        raise OSError("no such transform")

    x, y = torch.randn(24, 6), torch.arange(24) % 3
    groups = TransformGroups({"train": (None, None), "eval": (broken, None)}, current_group="train")
    data = make_avalanche_dataset(
        TensorDataset(x, y), transform_groups=groups, data_attributes=[DataAttribute(y.tolist(), "targets")]
    )
    strategy = strategy_of(mlp(), [EWCPlugin(1.0)])
    with pytest.raises(OSError, match="no such transform"):
        strategy.train(benchmark_from_datasets(train=[data]).train_stream[0])
    assert strategy.clock.train_iterations == 0


@pytest.mark.parametrize("variant", PLUGINS)
def test_a_second_experience_that_cannot_be_measured_fails_before_it_is_trained(variant):
    benchmark, _ = stream()
    model, plugin = Odd("none"), PLUGINS[variant]()
    strategy = strategy_of(model, [plugin])
    strategy.train(benchmark.train_stream[0])
    steps, terms = strategy.clock.train_iterations, plugin.penalty.n_terms
    importance = {name: value.clone() for name, value in plugin.importance.items()}
    model.how = "scalar"
    with pytest.raises(ValueError, match="sample"):
        strategy.train(benchmark.train_stream[1])
    assert (strategy.clock.train_iterations, plugin.penalty.n_terms) == (steps, terms)
    assert all(torch.equal(value, plugin.importance[name]) for name, value in importance.items())


# --------------------------------------------------------------------- nothing left behind


class Rich(nn.Module):
    """Statistics, draws, counters and a cache."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 3)
        )
        self.scale, self.calls, self.last = nn.Parameter(torch.ones(3)), 0, None
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen += len(x)
        z = self.net(x) * self.scale
        self.last = z.detach()
        return z


def noisy_stream():
    """Training's transform draws from every global generator."""

    def noise(x):
        return x + 0.1 * torch.randn(6) + 0.01 * random.random() + 0.01 * np.random.rand()

    groups = TransformGroups({"train": (noise, None), "eval": (None, None)}, current_group="train")
    x, y = torch.randn(48, 6, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 3
    data = make_avalanche_dataset(
        TensorDataset(x, y), transform_groups=groups, data_attributes=[DataAttribute(y.tolist(), "targets")]
    )
    return benchmark_from_datasets(train=[data])


@pytest.mark.parametrize("variant", PLUGINS)
def test_a_first_experience_is_trained_as_without_the_plugin_to_the_last_bit(variant):
    """Shuffling, dropout, augmentation, batch statistics: the rehearsal moves none of them, nor the pass itself."""
    found = []
    for plugins in ([], [PLUGINS[variant]()], [PLUGINS[variant](consolidation="manual")]):
        model = Rich()
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        strategy = strategy_of(model, plugins, train_epochs=2)
        strategy.train(noisy_stream().train_stream[0])
        found.append({**model.state_dict(), "calls": model.calls, "next": torch.rand(()), "python": random.random()})
    for other in found[1:]:
        for name, value in found[0].items():
            same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
            assert same, f"{name} is {other[name]}, not {value}"


class Watches(SupervisedPlugin):
    """Describes the strategy when its turn comes."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def before_training_exp(self, strategy, **kwargs):
        attributes = {name: value for name, value in vars(strategy).items() if name not in ("plugins", "evaluator")}
        optimizer = {**state_of(strategy.optimizer.state), "groups": str(strategy.optimizer.param_groups)}
        self.seen.append((dict(attributes), state_of(strategy.model), process_state(), optimizer))


@pytest.mark.parametrize("variant", PLUGINS)
def test_the_strategy_is_left_as_it_was(variant):
    before, after = Watches(), Watches()
    strategy = strategy_of(Rich(), [before, PLUGINS[variant](), after])
    strategy.train(noisy_stream().train_stream[0])
    ((attributes, model, process, optimizer),), ((later, model2, process2, optimizer2),) = before.seen, after.seen
    assert attributes.keys() == later.keys(), attributes.keys() ^ later.keys()
    changed = [name for name in attributes if attributes[name] is not later[name]]
    assert not changed, f"the rehearsal changed the strategy's {changed}"
    assert not differences(model, model2)
    assert not differences(process, process2)
    assert not differences(optimizer, optimizer2)


@pytest.mark.parametrize("variant", PLUGINS)
def test_the_rehearsal_is_small(variant):
    """It reads a few samples of a thousand, whatever they cost."""
    read = []

    class Counts(TensorDataset):
        def __getitem__(self, n):
            read.append(n)
            return super().__getitem__(n)

    class Notes(SupervisedPlugin):
        def before_training_exp(self, strategy, **kwargs):
            self.before = len(read)

    class NotesLater(Notes):
        pass

    x, y = torch.randn(1000, 6), torch.arange(1000) % 3
    data = Counts(x, y)
    data.targets = y.tolist()
    benchmark = benchmark_from_datasets(train=[as_classification_dataset(data)])
    early, late = Notes(), NotesLater()
    strategy_of(mlp(), [early, PLUGINS[variant](), late]).train(benchmark.train_stream[0])
    assert 1 <= late.before - early.before <= 64, f"{late.before - early.before} samples were read before training"


@pytest.mark.parametrize("variant", ["exact", "empirical", "mas"])
def test_an_experience_of_one_sample(variant):
    """One sample tells nothing of a batch, but is no error."""
    x, y = torch.randn(1, 6), torch.tensor([1])
    data = TensorDataset(x, y)
    data.targets = [1]
    benchmark = benchmark_from_datasets(train=[as_classification_dataset(data)])
    model, plugin = mlp(), PLUGINS[variant]()
    strategy_of(model, [plugin]).train(benchmark.train_stream[0])
    assert_right(plugin.importance, expected(model, x, variant, y if variant == "empirical" else None))


@pytest.mark.parametrize("variant", ["exact", "mas"])
def test_an_untrained_model_whose_gradients_are_all_zero_is_not_refused(variant):
    """A zero at the start, as of a head that is initialised to zero, is no sign of a missing graph."""
    benchmark, samples = stream()
    model, plugin = mlp(), PLUGINS[variant]()
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    strategy_of(model, [plugin], lr=0.5).train(benchmark.train_stream[0])
    assert_right(plugin.importance, expected(model, samples[0][0], variant))
