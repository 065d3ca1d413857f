"""What is wrong is refused by one exception that names the value and what is allowed; nothing half done."""

import math

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import make_avalanche_dataset
from avalanche.core import SupervisedPlugin
from avalanche.training.supervised import Naive, StreamingLDA
from avalanche.training.templates import SupervisedMetaLearningTemplate
from torch import nn

from clreg_plugins import EWCPlugin, KFACPlugin, L2Plugin, MASPlugin, OnlineEWCPlugin, RegularizationPlugin, SIPlugin
from tests.plugins.digits import (
    MEASURES,
    PLUGINS,
    assert_identical,
    class_incremental,
    digits,
    mlp,
    parameters_of,
    strategy_for,
)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (KFACPlugin, {"fisher": "batched"}, r"fisher is 'batched'; allowed: exact, sample, predicted, empirical$"),
        (OnlineEWCPlugin, {"gamma": 1.5}, r"gamma is 1.5; allowed: a finite number >= 0 and <= 1$"),
        (SIPlugin, {"xi": 1e-50}, r"xi is 1e-50; allowed: a finite number >= 1.17549e-38 that float32 can hold$"),
        (MASPlugin, {"num_workers": -1}, r"num_workers is -1; allowed: a whole number from 0 to 1024$"),
        (
            EWCPlugin,
            {"likelihood": 3},
            r"likelihood is 3; allowed: cat.*, or None \(what the criterion says\)$",
        ),
    ],
)
def test_a_message_says_all_that_is_allowed(kind, options, message):
    """More of them in tests/test_arguments.py."""
    with pytest.raises(ValueError, match=message):
        kind(1.0, **options)


# ------------------------------------------------------------------ in training


class Meta(SupervisedMetaLearningTemplate):
    """A meta-learning update as Avalanche's template has it: it never calls ``before_backward``."""

    def _inner_updates(self, **kwargs):
        pass

    def _outer_update(self, **kwargs):
        loss = self._criterion(self.model(self.mb_x), self.mb_y)
        loss.backward()
        self.optimizer.step()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_meta_learning_update_is_refused(plugin):
    strategy = strategy_for(mlp(), [plugin], kind=Meta)
    before = plugin.state_dict()
    with pytest.raises(RuntimeError, match=r"Meta never calls before_backward, so .*Plugin cannot add its penalty"):
        strategy.train(class_incremental(1).train_stream, eval_streams=[])
    assert plugin.penalty.n_terms == before["penalty"]["n_terms"] == 0, "consolidated although nothing was penalised"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_streaming_lda_is_refused(plugin, plugin_name):
    """By its update; where an importance is measured from a pass, by the rehearsal: its features have no graph."""

    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()

        def forward(self, x):
            return self.inner[0](x)

    strategy = StreamingLDA(
        slda_model=Features(),
        criterion=nn.CrossEntropyLoss(),
        input_size=12,
        num_classes=6,
        output_layer_name="inner.0",
        train_mb_size=10,
        train_epochs=1,
        plugins=[plugin],
        evaluator=None,
    )
    no_update, no_graph = "StreamingLDA never calls before_backward", "no output of the model depends on a parameter"
    with pytest.raises((RuntimeError, ValueError), match=no_update if plugin_name in ("SI", "L2") else no_graph):
        strategy.train(class_incremental(1).train_stream, eval_streams=[])
    assert plugin.penalty.n_terms == 0


class Spoiling(SupervisedPlugin):
    """Makes the loss of one iteration bad."""

    def __init__(self, value, iteration):
        super().__init__()
        self.value, self.iteration, self.seen = value, iteration, 0

    def before_backward(self, strategy, **kwargs):
        if strategy.clock.train_iterations == self.iteration:
            strategy.loss = strategy.loss * self.value
        self.seen = strategy.clock.train_iterations


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("iteration", [1, 5])
def test_a_loss_that_is_not_finite_stops_training_at_once(plugin, value, iteration):
    """Before the step: parameters are those before the bad minibatch, and nothing is consolidated from it."""
    model, spoiling = mlp(), Spoiling(value, iteration)
    strategy = strategy_for(model, [spoiling, plugin])
    thetas = []

    class Look(SupervisedPlugin):
        def after_training_iteration(self, strategy, **kwargs):
            thetas.append((parameters_of(model), plugin.state_dict()))

    strategy.plugins.append(Look())
    with pytest.raises(FloatingPointError, match=rf"the loss is {value}; it must be finite"):
        strategy.train(class_incremental(2).train_stream, eval_streams=[])
    assert spoiling.seen == iteration, f"stopped at iteration {spoiling.seen} instead of {iteration}"
    theta, state = thetas[-1]
    assert_identical(parameters_of(model), theta)
    if iteration == 1:
        assert_identical(plugin.state_dict(), state)
    assert plugin.penalty.n_terms == (0 if iteration < 4 else 1)


class Overflowing(nn.Module):
    """Logits of a plain model, until it has been trained: then NaN in eval mode, where importance is measured."""

    def __init__(self):
        super().__init__()
        self.inner = mlp()
        self.trained = False

    def forward(self, x):
        self.trained |= self.training
        return self.inner(x) * math.nan if self.trained and not self.training else self.inner(x)


@pytest.mark.parametrize("name", MEASURES)
def test_an_importance_that_is_not_finite_changes_nothing(name):
    plugin = PLUGINS[name]()
    strategy = strategy_for(Overflowing(), [plugin])
    state = []

    class Look(SupervisedPlugin):
        def after_training_epoch(self, strategy, **kwargs):
            state.append(plugin.state_dict())

    strategy.plugins.insert(0, Look())
    with pytest.raises(FloatingPointError, match=r"(importance|factor A) of .* nan; every entry must be finite"):
        strategy.train(class_incremental(1).train_stream, eval_streams=[])
    assert_identical(plugin.state_dict(), state[0])
    assert plugin.paths == {}, "paths are those of a measurement that was refused"


def test_a_path_integral_that_is_not_finite_changes_nothing():
    """A gradient that overflows without a GradScaler to skip its step."""

    class Burst(SupervisedPlugin):
        def after_backward(self, strategy, **kwargs):
            strategy.model[0].weight.grad[0, 0] = math.inf

        def before_update(self, strategy, **kwargs):
            strategy.model[0].weight.grad[0, 0] = 0.0

    plugin = SIPlugin(1.0)
    strategy = strategy_for(mlp(), [Burst(), plugin])
    state = []

    class Look(SupervisedPlugin):
        def after_training_epoch(self, strategy, **kwargs):
            state.append(plugin.state_dict())

    strategy.plugins.insert(0, Look())
    with pytest.raises(FloatingPointError, match=r"importance of '0.weight' holds (nan|inf|-inf)"):
        strategy.train(class_incremental(1).train_stream, eval_streams=[])
    names = ("penalty", "parts_seen")
    assert_identical({n: plugin.state_dict()[n] for n in names}, {n: state[0][n] for n in names})


@pytest.mark.parametrize("name", MEASURES)
def test_empty_data_is_refused(name):
    plugin = PLUGINS[name](consolidation="manual")
    strategy = strategy_for(mlp(), [plugin])
    strategy.train(class_incremental(1).train_stream, eval_streams=[])
    before = plugin.state_dict()
    empty = torch.utils.data.Subset(digits(), [])
    for data in (empty, torch.utils.data.DataLoader(empty)):
        with pytest.raises(ValueError, match="data is empty; an importance needs at least one sample"):
            plugin.consolidate(strategy, data)
        assert_identical(plugin.state_dict(), before)


def test_an_experience_without_samples(plugin):
    """Avalanche itself does not complain where it does not shuffle; an epoch without minibatch is refused."""
    empty = make_avalanche_dataset(torch.utils.data.Subset(digits(), []))
    stream = benchmark_from_datasets(train=[empty]).train_stream
    strategy = strategy_for(mlp(), [plugin])
    with pytest.raises(ValueError, match="the training data is empty"):
        strategy.train(stream, eval_streams=[], shuffle=False)
    assert plugin.penalty.n_terms == 0


def test_a_shrunk_parameter_is_refused(plugin):
    model = mlp()
    strategy = strategy_for(model, [plugin])
    stream = class_incremental().train_stream
    strategy.train(stream[0], eval_streams=[])
    before = plugin.state_dict()
    model[2] = nn.Linear(12, 4)
    strategy.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    strategy.optimized_param_id = None
    with pytest.raises(ValueError, match=r"'2.weight' has shape \(4, 12\), but its importance has shape \(6, 12\)"):
        strategy.train(stream[1], eval_streams=[])
    assert_identical(plugin.state_dict(), before)


def test_a_subclass_has_to_say_what_it_does():
    """How importance is measured and how it is consolidated: without either there is no plugin."""

    class Measuring(RegularizationPlugin):
        def _measure(self, strategy, data):
            return {}

    for kind, missing in ((RegularizationPlugin, "_consolidate.*_measure"), (Measuring, "_consolidate")):
        with pytest.raises(TypeError, match=rf"abstract method.*{missing}"):
            kind(1.0)


@pytest.mark.parametrize(("kind", "options"), [(SIPlugin, {"zeta": 1}), (L2Plugin, {"xi": 1})])
def test_an_option_that_is_not_known(kind, options):
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        kind(1.0, **options)


def test_training_can_be_stopped_by_another_plugin(plugin):
    """Early stopping is no error."""

    class Stop(SupervisedPlugin):
        def before_training_epoch(self, strategy, **kwargs):
            strategy.stop_training()

    strategy = strategy_for(mlp(), [plugin, Stop()], kind=Naive)
    strategy.train(class_incremental(1).train_stream, eval_streams=[])
    assert plugin.penalty.n_terms == 1
