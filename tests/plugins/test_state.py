"""A run stopped and resumed gives the same numbers, to the last bit, as one that was not."""

import copy
import io
import pickle

import pytest
import torch
from avalanche.core import SupervisedPlugin

from clreg_plugins import EWCPlugin, KFACPlugin, L2Plugin, MASPlugin, OnlineEWCPlugin, RegularizationPlugin, SIPlugin
from tests.plugins.digits import (
    PLUGINS,
    MultiHead,
    assert_identical,
    class_incremental,
    mlp,
    parameters_of,
    strategy_for,
    task_incremental,
)
from tests.plugins.test_online import parts_of

VARIANTS = {
    **PLUGINS,
    "EWC sample": lambda: EWCPlugin(20.0, fisher="sample", draws=2, n_samples=16),
    "EWC batched": lambda: EWCPlugin(20.0, fisher="batched"),
    "EWC sequence": lambda: EWCPlugin([20.0, 10.0, 5.0]),
    "OnlineEWC sample": lambda: OnlineEWCPlugin(20.0, gamma=0.5, fisher="sample", n_samples=16),
    "KFAC sample": lambda: KFACPlugin(20.0, fisher="sample", weight_sharing="reduce", n_samples=16),
    "KFAC sequence": lambda: KFACPlugin([20.0, 10.0, 5.0], gamma=0.5, max_width=64),
    "MAS subset": lambda: MASPlugin(1.0, n_samples=16),
    "SI unclipped": lambda: SIPlugin(2.0, clip=False, gradient="total"),
}


def through_a_file(state):
    """Saved, and loaded as plain data."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Run:
    """A model, an optimizer and a plugin in a strategy, and everything that a checkpoint has to hold."""

    def __init__(self, make, model_of=mlp):
        self.model = model_of()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.plugin = make()
        self.strategy = strategy_for(self.model, [self.plugin], optimizer=self.optimizer)

    def state(self):
        """Plain data."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "plugin": self.plugin.state_dict(),
            "rng": torch.get_rng_state(),
        }

    def load(self, state):
        """Go on from there; the optimizer is set up by the strategy first, which clears its state once."""
        self.model.load_state_dict(state["model"])
        self.strategy.make_optimizer(reset_optimizer_state=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.plugin.load_state_dict(state["plugin"])
        torch.set_rng_state(state["rng"])

    def train(self, stream):
        """One call for each experience."""
        for experience in stream:
            self.strategy.train(experience, eval_streams=[])

    def result(self):
        """What has to be equal."""
        return {
            "model": parameters_of(self.model),
            "plugin": self.plugin.state_dict(),
            "rng": torch.get_rng_state(),
        }


def compare(make, stream, stop, model_of=mlp):
    """Uninterrupted against stopped after ``stop`` experiences."""
    torch.manual_seed(7)
    whole = Run(make, model_of)
    torch.manual_seed(7)
    whole.train(stream)
    expected = whole.result()

    first = Run(make, model_of)
    torch.manual_seed(7)
    first.train(stream[:stop])
    state = through_a_file(first.state())

    torch.manual_seed(99)
    second = Run(make, model_of)
    second.load(state)
    second.train(stream[stop:])
    assert_identical(second.result(), expected)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("stop", [1, 2])
def test_resumed_between_experiences(name, stop):
    compare(VARIANTS[name], class_incremental().train_stream, stop)


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_resumed_in_the_middle_of_an_online_origin(plugin_name, stop):
    """Four parts an origin: after one and three of them, between the origins, and in the second."""
    stream = class_incremental(2).train_stream
    compare(PLUGINS[plugin_name], parts_of(stream, 10, False), stop)


def test_resumed_in_the_middle_then_another_origin_is_refused():
    """The data of the origin that was left is gone with the old process: nothing to measure on."""
    stream = class_incremental(2).train_stream
    parts = parts_of(stream, 10, False)
    first = Run(lambda: EWCPlugin(1.0))
    first.train(parts[:2])
    second = Run(lambda: EWCPlugin(1.0))
    second.load(through_a_file(first.state()))
    before = second.plugin.state_dict()
    with pytest.raises(RuntimeError, match="resumed in the middle of origin experience 0"):
        second.train(parts[4:5])
    assert_identical(second.plugin.state_dict(), before)
    # as the message says
    second.plugin.consolidate(second.strategy, stream[0].dataset)
    second.train(parts[4:])
    assert second.plugin.penalty.n_terms == 2, f"{second.plugin.penalty.n_terms} terms, expected one for each origin"


def test_a_multi_head_model(plugin_name):
    """The resumed model has its heads; the plugin takes them by name."""
    stream = task_incremental().train_stream
    first = Run(PLUGINS[plugin_name], MultiHead)
    first.train(stream[:2])
    state = through_a_file(first.plugin.state_dict())
    fresh = PLUGINS[plugin_name]()
    fresh.load_state_dict(state)
    assert_identical(fresh.state_dict(), first.plugin.state_dict())
    strategy = strategy_for(first.model, [fresh])
    strategy.train(stream[2], eval_streams=[])
    assert fresh.penalty.n_terms == 3


@pytest.mark.parametrize("loaded", [False, True])
def test_the_state_is_a_copy(plugin, loaded):
    """Training on does not change a state that was taken before, nor one that was loaded."""
    run = Run(lambda: plugin)
    stream = class_incremental().train_stream
    run.train(stream[:1])
    state = plugin.state_dict()
    kept = copy.deepcopy(state)
    if loaded:
        plugin.load_state_dict(state)
    run.train(stream[1:])
    assert_identical(state, kept)


def test_what_a_plugin_shows_is_a_copy(plugin):
    """The caller's own: training on does not change it, and changing it does not change the plugin."""
    run = Run(lambda: plugin)
    stream = class_incremental().train_stream
    run.train(stream[:1])
    shown = {kind: getattr(plugin, kind, {}) for kind in ("importance", "anchor", "path_integral")}
    kept = copy.deepcopy(shown)
    run.train(stream[1:])
    assert_identical(shown, kept)
    learned = plugin.state_dict()
    for kind in shown:
        for tensor in getattr(plugin, kind, {}).values():
            tensor.fill_(7.0)
    assert_identical(plugin.state_dict(), learned)


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
def test_copies_hold_everything_that_was_learned(plugin, how):
    run = Run(lambda: plugin)
    stream = class_incremental().train_stream
    run.train(stream[:2])
    other = pickle.loads(pickle.dumps(plugin)) if how == "pickle" else copy.deepcopy(plugin)
    assert_identical(other.state_dict(), plugin.state_dict())
    # and trains on as the original does
    model, theta = copy.deepcopy(run.model), parameters_of(run.model)
    results = []
    for p, m in ((plugin, run.model), (other, model)):
        torch.manual_seed(5)
        strategy = strategy_for(m, [p])
        strategy.train(stream[2], eval_streams=[])
        results.append((parameters_of(m), p.state_dict()))
    assert_identical(dict(enumerate(results[1])), dict(enumerate(results[0])))
    assert not torch.equal(theta["0.weight"], results[0][0]["0.weight"])


def test_a_copy_amid_an_experience(plugin_name):
    """A plugin that another plugin pickles while training goes on."""
    from avalanche.core import SupervisedPlugin

    plugin = PLUGINS[plugin_name]()
    copies = []

    class Copying(SupervisedPlugin):
        def after_training_iteration(self, strategy, **kwargs):
            copies.append(pickle.loads(pickle.dumps(plugin)))
            assert_identical(copies[-1].state_dict(), plugin.state_dict())

    strategy = strategy_for(mlp(), [plugin, Copying()])
    strategy.train(class_incremental(2).train_stream, eval_streams=[])
    assert len(copies) == 8


BROKEN = {
    "another plugin": lambda s: {**s, "plugin": "SomethingElse"},
    "a sequence of λ": lambda s: {**s, "lambda_folded_in": not s["lambda_folded_in"]},
    "a key is missing": lambda s: {k: v for k, v in s.items() if k != "parts_seen"},
    "a key too many": lambda s: {**s, "more": 1},
    "no penalty": lambda s: {**s, "penalty": {}},
    "names differ": lambda s: {**s, "penalty": {**s["penalty"], "anchor": {}}},
    "a shape differs": lambda s: {
        **s,
        "penalty": {**s["penalty"], "anchor": {n: v.flatten() for n, v in s["penalty"]["anchor"].items()}},
    },
    "parts_seen is no number": lambda s: {**s, "parts_seen": "many"},
    "parts_seen is True": lambda s: {**s, "parts_seen": True},
    "origin_index is no number": lambda s: {**s, "origin_index": "first", "parts_seen": 1},
    "parts of no origin": lambda s: {**s, "origin_index": None, "parts_seen": 1},
    "lambda_folded_in is a number": lambda s: {**s, "lambda_folded_in": int(s["lambda_folded_in"])},
    "no state at all": lambda s: None,
    "importance is no tensor": lambda s: {
        **s,
        "penalty": {**s["penalty"], "importance": dict.fromkeys(s["penalty"]["anchor"], 1.0)},
    },
    "n_terms is no number": lambda s: {**s, "penalty": {**s["penalty"], "n_terms": "many"}},
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_state_that_does_not_fit_changes_nothing(plugin, plugin_name, how):
    run = Run(lambda: plugin)
    stream = class_incremental().train_stream
    run.train(stream[:1])
    broken = BROKEN[how](plugin.state_dict())
    run.train(stream[1:2])
    before = plugin.state_dict()
    with pytest.raises(ValueError, match=r"\w"):
        plugin.load_state_dict(broken)
    assert_identical(plugin.state_dict(), before)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: {"0.weight": torch.zeros(3)},
        lambda path: "none",
        lambda path: path | {"0.weight": 1.0},
        lambda path: path | {"0.weight": path["0.weight"] * float("nan")},
        lambda path: path | {"0.weight": path["0.weight"].to("meta")},
    ],
)
def test_a_path_integral_that_does_not_fit_changes_nothing(change):
    plugin = SIPlugin(1.0)
    Run(lambda: plugin).train(class_incremental(1).train_stream)
    before = plugin.state_dict()
    omega = change(plugin.path_integral)
    with pytest.raises(ValueError, match="path_integral"):
        plugin.load_state_dict({**plugin.state_dict(), "path_integral": omega})
    assert_identical(plugin.state_dict(), before)


@pytest.mark.parametrize("make", [*PLUGINS.values(), lambda: SIPlugin(1.0, clip=False)], ids=[*PLUGINS, "SI unclipped"])
def test_importance_is_negative_only_where_totals_are_not_clipped(make):
    plugin = make()
    Run(lambda: plugin).train(class_incremental(1).train_stream)
    state = plugin.state_dict()
    if not state["penalty"]["importance"]:
        pytest.skip("all of the penalty's parameters have factors")
    state["penalty"]["importance"]["0.bias"][0] = -1.0
    if getattr(plugin, "clip", True):
        with pytest.raises(ValueError, match=r"importance of '0.bias' in the state holds -1.0; it must be at least 0"):
            plugin.load_state_dict(state)
    else:
        plugin.load_state_dict(state)
        assert plugin.importance["0.bias"][0] == -1.0


def test_a_state_of_one_method_is_not_another_ones():
    with pytest.raises(ValueError, match="MASPlugin"):
        L2Plugin(1.0).load_state_dict(MASPlugin(1.0).state_dict())


@pytest.mark.parametrize("name", VARIANTS)
def test_a_plugin_says_how_to_make_it(name):
    plugin = VARIANTS[name]()
    again = eval(repr(plugin), {type(plugin).__name__: type(plugin)})
    options = ("reg_lambda", "gamma", "fisher", "weight_sharing", "max_width", "draws", "output", "clip")
    for option in (*options, "gradient"):
        assert getattr(again, option, None) == getattr(plugin, option, None)
    if hasattr(plugin, "reading"):
        assert again.reading.options == plugin.reading.options


@pytest.mark.parametrize("behind", [False, True], ids=["between experiences", "by a plugin behind, in the epoch"])
def test_frozen_parameters_take_no_memory_until_they_are_trained(plugin_name, behind):
    """As the network under adapters."""

    class Unfreezing(SupervisedPlugin):
        def before_training_epoch(self, strategy, **kwargs):
            strategy.model[0].requires_grad_(strategy.clock.train_exp_counter > 0)

    model = mlp()
    model[0].requires_grad_(False)
    plugin = PLUGINS[plugin_name]()
    strategy = strategy_for(model, [plugin, Unfreezing()] if behind else [plugin])
    stream = class_incremental().train_stream
    strategy.train(stream[0], eval_streams=[])
    assert set(plugin.penalty.anchor) == {"2.weight", "2.bias"}
    assert not plugin.importance["0.weight"].any()
    model[0].requires_grad_(not behind)
    frozen = model[0].weight.detach().clone()
    anchors = []
    plugin.after_backward = lambda strategy, call=plugin.after_backward, **kwargs: (
        anchors.append(plugin.penalty.anchor["0.weight"].clone()),
        call(strategy, **kwargs),
    )
    strategy.train(stream[1], eval_streams=[])
    assert torch.equal(anchors[0], frozen)
    assert plugin.importance["0.weight"].any()


def test_an_importance_that_a_method_gives_frozen_parameters_is_left_out():
    class Ones(RegularizationPlugin, supports_distributed=True):
        def _measure(self, strategy, data):
            return {name: torch.ones_like(p) for name, p in strategy.model.named_parameters()}

        def _consolidate(self, importance, anchor):
            self.penalty.recenter(importance, anchor)

    model, plugin = mlp(), Ones(1.0)
    model[0].requires_grad_(False)
    strategy_for(model, [plugin]).train(class_incremental().train_stream[0], eval_streams=[])
    assert not plugin.importance["0.weight"].any()
    assert plugin.importance["2.weight"].all()
