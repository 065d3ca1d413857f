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

ALL = {
    "EWC": EWCPlugin,
    "OnlineEWC": OnlineEWCPlugin,
    "KFAC": KFACPlugin,
    "MAS": MASPlugin,
    "SI": SIPlugin,
    "L2": L2Plugin,
}
NOT_A_STRENGTH = [
    *(-1, -1e-9, math.nan, math.inf, 1e40, "x", b"ab", b"", None, True, [], (), torch.tensor([1.0, 2.0]), {"a": 1})
]


@pytest.mark.parametrize("value", NOT_A_STRENGTH, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_a_strength_is_a_finite_number_of_at_least_zero(name, value):
    with pytest.raises(ValueError, match=r"reg_lambda is .*; allowed: .*>= 0") as caught:
        ALL[name](value)
    shown = repr(value) if not isinstance(value, (list, tuple)) else ""
    assert shown in str(caught.value), f"the message does not name {value!r}: {caught.value}"


@pytest.mark.parametrize("name", ["MAS", "SI", "L2"])
def test_methods_with_one_strength_take_no_sequence(name):
    with pytest.raises(ValueError, match=r"reg_lambda is \[1.0, 2.0\]; allowed: one number >= 0"):
        ALL[name]([1.0, 2.0])


@pytest.mark.parametrize("name", ["EWC", "OnlineEWC", "KFAC"])
def test_every_strength_of_a_sequence_is_checked(name):
    with pytest.raises(ValueError, match=r"reg_lambda\[1\] is -2.0; allowed: a finite number >= 0"):
        ALL[name]([1.0, -2.0])


@pytest.mark.parametrize("value", [None, True, math.nan, math.inf, 1e40, 1e-50, "0.1", b"0.1"], ids=repr)
def test_a_damping_is_a_positive_number_that_float32_holds(value):
    with pytest.raises(ValueError, match=r"xi is .*; allowed: a finite number >= ") as caught:
        SIPlugin(1.0, xi=value)
    assert repr(value) in str(caught.value), f"the message does not name {value!r}: {caught.value}"


REFUSED = [
    (OnlineEWCPlugin, {"gamma": 1.5}, r"gamma is 1.5; allowed: a finite number >= 0 and <= 1"),
    (OnlineEWCPlugin, {"gamma": -0.1}, r"gamma is -0.1; allowed"),
    (OnlineEWCPlugin, {"gamma": math.nan}, r"gamma is nan; allowed"),
    (OnlineEWCPlugin, {"gamma": "1"}, r"gamma is '1'; allowed"),
    (SIPlugin, {"xi": 0}, r"xi is 0; allowed: a finite number >= 1.17549e-38"),
    (SIPlugin, {"xi": -1.0}, r"xi is -1.0; allowed: a finite number >= 1.17549e-38"),
    (SIPlugin, {"gradient": "both"}, r"gradient is 'both'; allowed: task, total"),
    (SIPlugin, {"gradient": None}, r"gradient is None; allowed: task, total"),
    (SIPlugin, {"gradient": b"task"}, r"gradient is b'task'; allowed: task, total"),
    *[(SIPlugin, {"clip": v}, rf"clip is {v!r}; allowed: True, False") for v in (None, 1, math.nan, "True", b"1")],
    (
        EWCPlugin,
        {"fisher": "true"},
        r"fisher is 'true'; allowed: exact, sample, predicted, empirical, batched",
    ),
    (OnlineEWCPlugin, {"fisher": None}, r"fisher is None; allowed: exact"),
    (
        EWCPlugin,
        {"likelihood": "poisson"},
        r"likelihood is 'poisson'; allowed: categorical, gaussian, bernoulli",
    ),
    (KFACPlugin, {"fisher": "batched"}, r"fisher is 'batched'; allowed: exact, sample, predicted, empirical$"),
    (KFACPlugin, {"merge": "mean"}, r"merge is 'mean'; allowed: nearest, sum"),
    (KFACPlugin, {"weight_sharing": None}, r"weight_sharing is None; allowed: expand, reduce"),
    (KFACPlugin, {"max_width": 0.5}, r"max_width is 0.5; allowed: a whole number >= 1"),
    (KFACPlugin, {"gamma": 2}, r"gamma is 2; allowed: a finite number >= 0 and <= 1"),
    (KFACPlugin, {"n_samples": 0}, r"n_samples is 0; allowed"),
    (EWCPlugin, {"draws": 0}, r"draws is 0; allowed: a whole number from 1 to 65536"),
    (EWCPlugin, {"n_samples": 0}, r"n_samples is 0; allowed: a whole number >= 1"),
    (EWCPlugin, {"n_samples": 2.5}, r"n_samples is 2.5; allowed: a whole number >= 1"),
    (OnlineEWCPlugin, {"n_samples": -3}, r"n_samples is -3; allowed"),
    (EWCPlugin, {"batch_size": 0}, r"batch_size is 0; allowed"),
    (EWCPlugin, {"num_workers": -1}, r"num_workers is -1; allowed: a whole number from 0 to 1024"),
    (EWCPlugin, {"max_bytes": 0}, r"max_bytes is 0; allowed"),
    (EWCPlugin, {"seed": -1}, r"seed is -1; allowed"),
    (MASPlugin, {"output": "l2"}, r"output is 'l2'; allowed: squared_norm, mean_square, vector"),
    (MASPlugin, {"accumulate": "mean"}, r"accumulate is 'mean'; allowed: average, sum"),
    (MASPlugin, {"n_samples": 0}, r"n_samples is 0; allowed"),
    *[
        (kind, {"consolidation": value}, rf"consolidation is {value!r}; allowed: experience, manual")
        for kind in ALL.values()
        for value in ("task", None, True, b"manual", math.nan)
    ],
]


@pytest.mark.parametrize(("kind", "options", "message"), REFUSED)
def test_an_option_outside_what_is_allowed(kind, options, message):
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
