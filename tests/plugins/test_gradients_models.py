"""Models that freeze, grow, gain heads or are compiled: importance is matched by name, old entries stay."""

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.models.cosine_layer import CosineIncrementalClassifier
from torch import nn

from clreg_plugins import EWCPlugin
from tests.plugins.digits import (
    PLUGINS,
    Counted,
    Growing,
    MultiHead,
    assert_close,
    class_incremental,
    mlp,
    parameters_of,
    strategy_for,
    task_incremental,
)


def test_frozen_layers_have_importance_zero(plugin):
    model = mlp()
    model[0].requires_grad_(False)
    strategy = strategy_for(model, [plugin])
    start = parameters_of(model)
    strategy.train(class_incremental().train_stream, eval_streams=[])
    for name in ("0.weight", "0.bias"):
        assert torch.equal(model.get_parameter(name), start[name]), f"{name} is frozen but moved"
        assert not plugin.importance[name].any(), f"{name} is frozen but has importance"
    assert plugin.importance["2.weight"].any(), "the trained layer has no importance"


def test_a_layer_frozen_later_keeps_its_importance_and_thawed_is_held_again(plugin_name, plugin):
    model = mlp()
    strategy = strategy_for(model, [plugin])
    stream = class_incremental().train_stream
    strategy.train(stream[0], eval_streams=[])
    first = plugin.importance["0.weight"].clone()
    model[0].requires_grad_(False)
    strategy.train(stream[1], eval_streams=[])
    # the frozen layer's second term is 0: what is left is what each method's consolidation makes of the first
    kept = {"EWC": 1.0, "OnlineEWC": 0.9, "KFAC": 0.9, "MAS": 0.5, "SI": 1.0, "L2": 0.0}[plugin_name]
    assert_close({"0.weight": plugin.importance["0.weight"]}, {"0.weight": kept * first}, what="importance")
    model[0].requires_grad_(True)
    strategy.train(stream[2], eval_streams=[])
    assert plugin.penalty.n_terms == 3
    assert model[0].weight.grad is not None


def test_parameters_that_the_loss_does_not_reach(plugin_name, plugin):
    """A layer that is not used has gradient None: importance 0, never an error."""

    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = mlp(), nn.Linear(3, 3)

        def forward(self, x):
            return self.used(x)

    strategy = strategy_for(Spare(), [plugin])
    strategy.train(class_incremental().train_stream, eval_streams=[])
    value = plugin.importance["spare.weight"]
    expected = torch.zeros_like(value)
    assert torch.equal(value, expected), f"importance of an unused parameter is {value.flatten()[0].item()}"


def test_heads_appear_one_by_one(plugin_name, plugin):
    """At the end of task t heads 0 to t exist; a head's importance is that of its own task."""
    strategy = strategy_for(MultiHead(), [plugin])
    counted = Counted(plugin)
    for t, experience in enumerate(task_incremental().train_stream):
        strategy.train(experience, eval_streams=[])
        heads = sorted({name.split(".")[2] for name in plugin.importance if name.startswith("heads")})
        assert heads == [str(k) for k in range(t + 1)], f"heads with importance after task {t}: {heads}"
        own = counted.terms[-1]["importance"][f"heads.classifiers.{t}.classifier.weight"]
        assert own.any(), f"head {t} has no importance after its own task"
        if t and plugin_name != "L2":
            head = "heads.classifiers.0.classifier.weight"
            change, first = (counted.terms[k]["importance"][head].abs().max().item() for k in (-1, 0))
            # SI takes the penalty out of a gradient that is nothing else here: what rounds is left
            allowed = torch.finfo(torch.float32).eps * plugin.reg_lambda * first if plugin_name == "SI" else 0
            assert change <= allowed, f"head 0 with importance {first:.2e} gained {change:.2e} in task {t}"


def test_a_grown_classifier_keeps_old_importance_and_new_entries_have_none(plugin):
    """At the second growth EWC's anchor is no longer the present value of the old entries: it stays too."""
    strategy = strategy_for(Growing(), [plugin])
    weight = "classifier.classifier.weight"
    grown = []
    bind = plugin.before_training_epoch

    def before_training_epoch(strategy, **kwargs):
        bind(strategy, **kwargs)
        grown.append((plugin.importance[weight].clone(), plugin.anchor[weight].clone()))

    plugin.before_training_epoch = before_training_epoch
    stream = class_incremental().train_stream
    strategy.train(stream[0], eval_streams=[])
    for t in (1, 2):
        old, anchor = plugin.importance[weight].clone(), plugin.anchor[weight].clone()
        assert old.shape == (2 * t, 12)
        strategy.train(stream[t], eval_streams=[])
        importance, centre = grown[t]
        assert importance.shape == (2 * t + 2, 12)
        assert torch.equal(importance[: 2 * t], old), "the old classes' importance changed when it grew"
        assert not importance[2 * t :].any(), "new classes have importance before they were learned"
        assert torch.equal(centre[: 2 * t], anchor), "the old classes' anchor changed when it grew"


def test_new_entries_are_free_to_move(plugin_name):
    """The gradient of a new class's weights is that of the task loss alone."""
    plugin = PLUGINS[plugin_name]()
    strategy = strategy_for(Growing(), [plugin])
    stream = class_incremental(2).train_stream
    strategy.train(stream[0], eval_streams=[])
    seen = []

    before_backward = plugin.before_backward

    def compare(strategy, **kwargs):
        weight = strategy.model.classifier.classifier.weight
        (without,) = torch.autograd.grad(strategy.loss, weight, retain_graph=True)
        before_backward(strategy, **kwargs)
        (whole,) = torch.autograd.grad(strategy.loss, weight, retain_graph=True)
        seen.append((whole - without).abs())

    plugin.before_backward = compare
    strategy.train(stream[1], eval_streams=[])
    share = torch.stack(seen).amax(dim=0)
    assert share[2:].max().item() == 0, f"new classes are held with a gradient of {share[2:].max().item():.2e}"
    assert share[:2].max().item() > 0, "old classes are not held"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_gives_the_same_numbers_under_the_models_own_names(plugin_name):
    results = []
    for compiled in (False, True):
        torch.compiler.reset()
        plugin = PLUGINS[plugin_name]()
        model = mlp()
        strategy = strategy_for(torch.compile(model, backend="eager") if compiled else model, [plugin])
        torch.manual_seed(3)
        strategy.train(class_incremental(2, per_class=10).train_stream, eval_streams=[], shuffle=False)
        results.append((plugin.importance, plugin.anchor, parameters_of(model)))
    for what, plain, other in zip(("importance", "anchor", "parameters"), *results, strict=True):
        assert_close(other, plain, rtol=1e-5, what=what)
    assert set(results[1][0]) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_a_compiled_submodule_adds_no_prefix():
    model = nn.Sequential(torch.compile(nn.Linear(64, 12), backend="eager"), nn.ReLU(), nn.Linear(12, 6))
    plugin = EWCPlugin(1.0)
    strategy_for(model, [plugin]).train(class_incremental(2, per_class=10).train_stream, eval_streams=[])
    assert set(plugin.importance) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert plugin.importance["0.weight"].any()


def test_names_are_the_models_own(plugin):
    model = MultiHead()
    strategy_for(model, [plugin]).train(task_incremental().train_stream, eval_streams=[])
    names = [name for name, _ in model.named_parameters()]
    assert list(plugin.importance) == names or set(plugin.importance) == set(names)
    assert set(plugin.anchor) == set(names)


def test_a_double_model_keeps_its_precision(plugin):
    """State is in at least float32, and in float64 where the parameters are."""
    model = mlp().double()

    class Double(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x.double())

    strategy_for(Double(), [plugin]).train(class_incremental(2).train_stream, eval_streams=[])
    assert {v.dtype for v in plugin.importance.values()} == {torch.float64}


def test_a_bfloat16_model_has_its_state_in_float32(plugin):
    model = mlp().bfloat16()

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x.bfloat16())

    strategy_for(Half(), [plugin]).train(class_incremental(2).train_stream, eval_streams=[])
    assert {v.dtype for v in plugin.importance.values()} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters()} == {torch.bfloat16}


class Replaces(SupervisedPlugin):
    """Puts a wider last layer into the model in the midst of its second experience's first epoch."""

    def before_training_iteration(self, strategy, **kwargs):
        if strategy.clock.train_exp_counter == 1 and strategy.clock.train_exp_iterations == 1:
            old = strategy.model[-1]
            strategy.model[-1] = wider = nn.Linear(old.in_features, old.out_features + 2)
            with torch.no_grad():
                wider.weight[: old.out_features] = old.weight
                wider.bias[: old.out_features] = old.bias
            groups = strategy.optimizer.param_groups
            groups[0]["params"] = list(strategy.model.parameters())


def test_a_layer_that_is_replaced_amid_an_epoch_is_held_from_that_step_on(plugin):
    """As where classes are added when they are met, without boundaries."""
    model = mlp()
    strategy = strategy_for(model, [Replaces(), plugin])
    stream = class_incremental().train_stream
    strategy.train(stream[0], eval_streams=[])
    wanted, found = [], []
    before_backward = plugin.before_backward

    def compare(strategy, **kwargs):
        weight = model[-1].weight
        (without,) = torch.autograd.grad(strategy.loss, weight, retain_graph=True)
        before_backward(strategy, **kwargs)
        (whole,) = torch.autograd.grad(strategy.loss, weight, retain_graph=True)
        term = plugin.penalty.loss_term(dict(model.named_parameters()), plugin.reg_lambda)
        (penalty,) = torch.autograd.grad(term, weight)
        found.append(whole - without)
        wanted.append(penalty)

    plugin.before_backward = compare
    strategy.train(stream[1], eval_streams=[])
    assert len({len(each) for each in found}) == 2
    assert all(each.any() for each in wanted[1:])
    for got, want in zip(found, wanted, strict=True):
        assert_close({"weight": got}, {"weight": want})


def test_a_layer_that_takes_another_name_is_said_to_be_without_its_importance():
    """Avalanche's CosineIncrementalClassifier wraps its weights in another module when it grows."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), CosineIncrementalClassifier(5))
    strategy = strategy_for(model, [EWCPlugin(10.0)])
    stream = class_incremental().train_stream
    strategy.train(stream[0], eval_streams=[])
    with pytest.warns(UserWarning, match=r"no longer has 3\.fc\.weight: the importance of these has no effect"):
        strategy.train(stream[1], eval_streams=[])


def test_an_evaluation_amid_an_epoch_that_grows_the_classifier(plugin):
    """Avalanche then has a new weight tensor in the model: the penalty holds that one from then on."""
    benchmark = class_incremental()
    strategy = strategy_for(Growing(), [plugin])
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    shares = []
    before_backward, after_iteration = plugin.before_backward, plugin.after_training_iteration

    def compare(strategy, **kwargs):
        weight = strategy.model.classifier.classifier.weight
        (without,) = torch.autograd.grad(strategy.loss, weight, retain_graph=True)
        before_backward(strategy, **kwargs)
        (whole,) = torch.autograd.grad(strategy.loss, weight, retain_graph=True)
        shares.append((len(weight), (whole - without)[:2].abs().max().item()))

    def evaluate(strategy, **kwargs):
        after_iteration(strategy, **kwargs)
        if len(shares) == 2:
            strategy.eval(benchmark.test_stream)

    plugin.before_backward, plugin.after_training_iteration = compare, evaluate
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    assert [classes for classes, _ in shares] == [4, 4, 6, 6], f"classes at each step: {shares}"
    assert all(share > 0 for _, share in shares[1:]), f"the penalty's gradient at each step: {shares}"
    assert plugin.importance["classifier.classifier.weight"].shape == (6, 12)
