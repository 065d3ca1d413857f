"""Measuring importance inside a strategy leaves everything else as it was."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import make_avalanche_dataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.benchmarks.utils.transform_groups import TransformGroups
from avalanche.training.plugins import ReplayPlugin
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from clreg_plugins import EWCPlugin, KFACPlugin, MASPlugin, OnlineEWCPlugin, fisher_diagonal, mas_importance
from clreg_plugins.importance.engine.pass_over_data import CHECKED_SAMPLES
from tests.plugins.digits import (
    MEASURES,
    PLUGINS,
    Counted,
    assert_close,
    assert_identical,
    class_incremental,
    cnn,
    digits,
    measured,
    mlp,
    parameters_of,
    strategy_for,
)

VARIANTS = {
    "exact": lambda: EWCPlugin(1.0),
    "sample": lambda: EWCPlugin(1.0, fisher="sample", n_samples=10),
    "empirical": lambda: OnlineEWCPlugin(1.0, fisher="empirical"),
    "batched": lambda: EWCPlugin(1.0, fisher="batched"),
    "factors": lambda: KFACPlugin(1.0),
    "MAS": lambda: MASPlugin(1.0),
    "MAS batched": lambda: MASPlugin(1.0, per_sample=False, n_samples=10),
}


def snapshot(strategy):
    """Everything that an importance pass could disturb."""
    model = strategy.model
    return {
        "modes": {name: module.training for name, module in model.named_modules()},
        "buffers": {name: buffer.clone() for name, buffer in model.named_buffers()},
        "parameters": parameters_of(model),
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "grad": {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None},
        "hooks": sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": list(random.getstate()[1]),
        "grad_enabled": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_model_and_generators_are_left_as_they_were(name):
    """Modes of each module (a BatchNorm put in eval mode by hand stays there), statistics, gradients, RNG."""
    plugin = VARIANTS[name]()
    model = cnn()
    seen = []
    measure = plugin._measure

    def between(strategy, data):
        model[1].eval()
        before = snapshot(strategy)
        importance = measure(strategy, data)
        seen.append((before, snapshot(strategy)))
        return importance

    plugin._measure = between
    strategy = strategy_for(model, [plugin], lr=0.01)
    strategy.train(class_incremental(2, image=True).train_stream, eval_streams=[])
    assert len(seen) == 2
    for before, after in seen:
        modes = (before["modes"][""], before["modes"]["1"])
        assert modes == (True, False), f"the model and its BatchNorm were in the modes {modes}"
        assert_identical(after, before)


@pytest.mark.parametrize("name", ["exact", "MAS"])
def test_dropout_and_batch_statistics_play_no_part(name):
    """What is measured in training is what is measured in eval mode, twice over."""
    plugin = VARIANTS[name]()
    model = cnn()
    strategy = strategy_for(model, [plugin], lr=0.01)
    experience = class_incremental(1, image=True).train_stream[0]
    strategy.train(experience, eval_streams=[])
    model.eval()
    measure = mas_importance if name == "MAS" else fisher_diagonal
    for _ in range(2):
        assert_close(plugin.importance, measure(model, experience.dataset), what="importance")


def augmented_stream(noise):
    """Two experiences whose training transform adds noise; the eval transform does not."""
    shout = []

    def augment(x):
        shout.append(1)
        return x + noise * torch.randn_like(x)

    experiences = []
    data = digits(4)
    for classes in ((0, 1), (2, 3)):
        rows = [i for i, y in enumerate(data.targets) if y in classes]
        groups = TransformGroups({"train": (augment, None), "eval": (None, None)}, current_group="train")
        targets = [data.targets[i] for i in rows]
        subset = torch.utils.data.Subset(data, rows)
        experiences.append(
            make_avalanche_dataset(subset, transform_groups=groups, data_attributes=[DataAttribute(targets, "targets")])
        )
    return benchmark_from_datasets(train=experiences).train_stream, shout


@pytest.mark.parametrize("name", MEASURES)
def test_eval_transforms_are_used(name):
    stream, shout = augmented_stream(noise=5.0)
    plugin = PLUGINS[name]()
    calls = []
    measure = plugin._measure

    def between(strategy, data):
        before = len(shout)
        importance = measure(strategy, data)
        calls.append(len(shout) - before)
        return importance

    plugin._measure = between
    strategy = strategy_for(mlp(), [plugin], lr=0.01)
    strategy.train(stream[0], eval_streams=[])
    assert len(shout) == 40, f"the training transform ran {len(shout)} times in training on 40 samples"
    assert calls == [0], f"the training transform ran {calls[0]} times in the importance pass"
    x = torch.stack([stream[0].dataset.eval()[i][0] for i in range(40)])
    y = torch.tensor([int(stream[0].dataset.eval()[i][1]) for i in range(40)])
    plain = measured(name, strategy.model, torch.utils.data.TensorDataset(x, y))
    assert_close(plugin.importance, plain, what="importance")


@pytest.mark.parametrize("name", MEASURES)
def test_replayed_samples_are_not_measured(name):
    plugin = PLUGINS[name]()
    counted = Counted(plugin)
    strategy = strategy_for(mlp(), [ReplayPlugin(mem_size=20), plugin])
    stream = class_incremental().train_stream
    rows = []
    for experience in stream:
        strategy.train(experience, eval_streams=[])
        rows.append(len(counted.terms[-1]["data"]))
        expected = measured(name, strategy.model, experience.dataset)
        assert_close(counted.terms[-1]["importance"], expected, what="importance")
    assert rows == [40, 40, 40], f"samples measured on: {rows}"


# ------------------------------------------------------------------ likelihood


class Targets(nn.Module):
    """Not known as the negative logarithm of any likelihood."""

    def forward(self, z, y):
        return (z - y).abs().mean()


def regression(kind):
    """Targets of the shape of the outputs: pixels' class as one-hot (Bernoulli, Gaussian)."""
    data = digits(3)
    one_hot = F.one_hot(data.tensors[1], 3).float()
    dataset = make_avalanche_dataset(torch.utils.data.TensorDataset(data.tensors[0], one_hot))
    return benchmark_from_datasets(train=[dataset]).train_stream


CRITERIA = {
    "categorical": (nn.CrossEntropyLoss, lambda: class_incremental(1).train_stream, 2),
    "categorical, smoothed": (
        lambda: nn.CrossEntropyLoss(reduction="mean"),
        lambda: class_incremental(1).train_stream,
        2,
    ),
    "categorical, function": (lambda: F.cross_entropy, lambda: class_incremental(1).train_stream, 2),
    "gaussian": (nn.MSELoss, lambda: regression("gaussian"), 3),
    "gaussian, function": (lambda: F.mse_loss, lambda: regression("gaussian"), 3),
    "bernoulli": (nn.BCEWithLogitsLoss, lambda: regression("bernoulli"), 3),
}


@pytest.mark.parametrize("fisher", ["exact", "sample", "empirical", "batched"])
@pytest.mark.parametrize("name", CRITERIA)
def test_the_likelihood_follows_from_the_criterion(name, fisher):
    criterion, stream_of, outputs = CRITERIA[name]
    stream = stream_of()
    plugin = EWCPlugin(1.0, fisher=fisher, batch_size=16)
    strategy = strategy_for(mlp(outputs), [plugin], criterion=criterion(), lr=0.01)
    strategy.train(stream[0], eval_streams=[])
    expected = fisher_diagonal(
        strategy.model,
        stream[0].dataset,
        variant=fisher,
        likelihood=name.split(",")[0],
        batch_size=16,
        seed=0,
    )
    assert_close(plugin.importance, expected, what="importance")
    assert expected["2.weight"].any()


@pytest.mark.parametrize(
    ("name", "at_most"), [("exact", 340), ("empirical", 340), ("MAS", 340), ("batched", 10)], ids=str
)
def test_samples_are_read_in_large_batches_where_batches_make_no_difference(name, at_most):
    """And in the strategy's where they do."""
    plugin, model, seen = VARIANTS[name](), mlp(6), []
    strategy = strategy_for(model, [plugin])
    data = class_incremental(1, per_class=170).train_stream[0].dataset
    plugin.before_training_exp(strategy)
    # on all modules: what hangs on the model is put back as it was
    handle = register_module_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    plugin.consolidate(strategy, data)
    handle.remove()
    assert at_most - CHECKED_SAMPLES <= max(seen) <= at_most


@pytest.mark.parametrize("kind", [EWCPlugin, OnlineEWCPlugin, KFACPlugin])
def test_a_criterion_without_likelihood_is_refused_before_training(kind):
    plugin = kind(1.0)
    model = mlp(3)
    strategy = strategy_for(model, [plugin], criterion=Targets())
    before = parameters_of(model)
    with pytest.raises(ValueError, match=r"criterion Targets .*likelihood='categorical' or 'gaussian' or 'bernoulli'"):
        strategy.train(regression("gaussian"), eval_streams=[])
    assert_identical(parameters_of(model), before)
    assert plugin.penalty.n_terms == 0


def test_a_criterion_without_likelihood_trains_once_one_is_named():
    plugin = EWCPlugin(1.0, likelihood="gaussian")
    strategy = strategy_for(mlp(3), [plugin], criterion=Targets(), lr=0.01)
    stream = regression("gaussian")
    strategy.train(stream, eval_streams=[])
    assert_close(plugin.importance, fisher_diagonal(strategy.model, stream[0].dataset, likelihood="gaussian"))


def test_predicted_labels_of_a_gaussian_are_refused_before_training():
    model = mlp(3)
    before = parameters_of(model)
    strategy = strategy_for(model, [EWCPlugin(1.0, fisher="predicted")], criterion=nn.MSELoss())
    with pytest.raises(ValueError, match="'predicted' is zero under a gaussian likelihood"):
        strategy.train(regression("gaussian"), eval_streams=[])
    assert_identical(parameters_of(model), before)


def test_mas_needs_no_likelihood():
    plugin = MASPlugin(1.0)
    strategy = strategy_for(mlp(3), [plugin], criterion=Targets(), lr=0.01)
    strategy.train(regression("gaussian"), eval_streams=[])
    assert plugin.importance["2.weight"].any()
