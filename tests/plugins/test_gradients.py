"""After ``backward()`` the gradient is that of the whole loss, penalty included, whatever happens to it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import LwFPlugin, MIRPlugin, ReplayPlugin
from avalanche.training.supervised import Naive

from clreg_plugins import EWCPlugin, KFACPlugin
from tests import oracles
from tests.plugins.digits import (
    PLUGINS,
    Counted,
    assert_close,
    class_incremental,
    mlp,
    parameters_of,
    strategy_for,
)


class Watched(Naive):
    """Records, for every step, θ, the minibatch and the gradients that the optimizer gets."""

    def optimizer_step(self):
        """Record, then step."""
        self.steps = getattr(self, "steps", [])
        self.steps.append(
            {
                "theta": parameters_of(self.model),
                "batch": (self.mb_x.clone(), self.mb_y.clone()),
                "grad": {n: p.grad.clone() for n, p in self.model.named_parameters()},
            }
        )
        super().optimizer_step()


class Scaling(SupervisedPlugin):
    """Halves the loss, as a new tensor or in place."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place

    def before_backward(self, strategy, **kwargs):
        """Halve."""
        if self.in_place:
            strategy.loss *= 0.5
        else:
            strategy.loss = strategy.loss * 0.5


def penalty_of(plugin, theta, terms, term_weights=None):
    """``λ/2 Σ Ω (θ − θ*)²``, or with Kronecker factors; for EWC the sum over terms, each at its own anchor."""
    if isinstance(plugin, EWCPlugin) and type(plugin) is EWCPlugin:
        weights = term_weights or [plugin.reg_lambda] * len(terms)
        return sum(
            w
            / 2
            * sum((t["importance"][n].double() * (p - t["anchor"][n].double()) ** 2).sum() for n, p in theta.items())
            for w, t in zip(weights, terms, strict=True)
        )
    anchor = terms[-1]["anchor"]
    difference = {n: p - anchor[n].double() for n, p in theta.items()}
    if isinstance(plugin, KFACPlugin):
        layers = [layer.factors for layer in plugin.penalty.layers.values()]
        assert {n for layer in layers for n in layer.parameters} == set(theta)
        return plugin.reg_lambda / 2 * oracles.kronecker_quadratics(layers, difference)
    importance = plugin.importance
    return plugin.reg_lambda / 2 * sum((importance[n].double() * d**2).sum() for n, d in difference.items())


def explicit_gradient(step, task_loss, penalty):
    """The gradient in float64 of an explicitly summed loss at the recorded θ."""
    theta = {n: p.double().requires_grad_() for n, p in step["theta"].items()}
    loss = task_loss(theta, *step["batch"]) + penalty(theta)
    return dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))


def logits(theta, x):
    """The forward pass of :func:`mlp`."""
    hidden = F.relu(F.linear(x.double(), theta["0.weight"], theta["0.bias"]))
    return F.linear(hidden, theta["2.weight"], theta["2.bias"])


def cross_entropy(theta, x, y):
    """The task loss of :func:`mlp`."""
    return F.cross_entropy(logits(theta, x), y)


def run(plugins, plugin, *, experiences=3, kind=Watched, **options):
    """Train; return the terms consolidated, and the steps of the last experience."""
    counted = Counted(plugin)
    strategy = strategy_for(mlp(), plugins, kind=kind, **options)
    stream = class_incremental(experiences).train_stream
    for experience in stream:
        strategy.steps = []
        counted.before_last = list(counted.terms)
        before = copy.deepcopy(plugin.penalty)
        strategy.train(experience, eval_streams=[])
    plugin.penalty = before  # as it was while the recorded steps were made
    return counted.before_last, strategy.steps, strategy


def test_the_gradient_is_that_of_the_explicit_sum(plugin):
    terms, steps, _ = run([plugin], plugin)
    assert (len(terms), len(steps)) == (2, 4)
    for step in steps:
        expected = explicit_gradient(step, cross_entropy, lambda theta: penalty_of(plugin, theta, terms))
        without = explicit_gradient(step, cross_entropy, lambda theta: 0)
        assert_close(step["grad"], expected, rtol=1e-4, what="gradient")
    moved = sum((expected[n] - without[n]).abs().sum().item() for n in expected)
    assert moved > 1e-4, f"the penalty's share of the gradient is only {moved:.1e}: the test shows nothing"


@pytest.mark.parametrize("in_place", [True, False], ids=["in-place", "new-tensor"])
@pytest.mark.parametrize("first", [True, False], ids=["scaled-before", "scaled-after"])
def test_a_plugin_that_scales_the_loss(plugin, in_place, first):
    scaling = Scaling(in_place)
    terms, steps, _ = run([scaling, plugin] if first else [plugin, scaling], plugin)
    share = 1.0 if first else 0.5
    for step in steps:
        expected = explicit_gradient(
            step,
            lambda *args: 0.5 * cross_entropy(*args),
            lambda theta: share * penalty_of(plugin, theta, terms),
        )
        assert_close(step["grad"], expected, rtol=1e-4, what="gradient")


@pytest.mark.parametrize("first", [True, False], ids=["plugin-first", "plugin-last"])
def test_beside_distillation(plugin, first):
    """LwF's loss is recomputed from the previous experience's model."""
    lwf = LwFPlugin(alpha=0.7, temperature=2.0)
    terms, steps, _ = run([plugin, lwf] if first else [lwf, plugin], plugin, experiences=2)
    previous = {n: v.double() for n, v in terms[-1]["anchor"].items()}

    def task_loss(theta, x, y):
        z, before = logits(theta, x)[:, :2], logits(previous, x)[:, :2]
        distilled = F.kl_div(F.log_softmax(z / 2, 1), F.softmax(before / 2, 1), reduction="batchmean")
        return cross_entropy(theta, x, y) + 0.7 * distilled

    for step in steps:
        expected = explicit_gradient(step, task_loss, lambda theta: penalty_of(plugin, theta, terms))
        assert_close(step["grad"], expected, rtol=1e-4, what="gradient")


@pytest.mark.parametrize("first", [True, False], ids=["plugin-first", "plugin-last"])
def test_beside_replay(plugin, first):
    """Replayed samples are in the minibatch, and so in the task loss."""
    replay = ReplayPlugin(mem_size=12)
    terms, steps, _ = run([plugin, replay] if first else [replay, plugin], plugin)
    assert max(len(step["batch"][1]) for step in steps) == 20, "no samples were replayed"
    for step in steps:
        expected = explicit_gradient(step, cross_entropy, lambda theta: penalty_of(plugin, theta, terms))
        assert_close(step["grad"], expected, rtol=1e-4, what="gradient")


class SpiedMIR(MIRPlugin):
    """Keeps the gradient that MIR takes of the loss."""

    def before_backward(self, strategy, **kwargs):
        """Observe MIR."""
        strategy.virtual = torch.autograd.grad(
            strategy.loss, list(strategy.model.parameters()), retain_graph=True, allow_unused=True
        )
        super().before_backward(strategy, **kwargs)


@pytest.mark.parametrize("first", [True, False], ids=["plugin-first", "plugin-last"])
def test_beside_retrieval_that_differentiates_the_loss(plugin, first):
    """MIR differentiates ``strategy.loss`` itself before the backward pass; both gradients hold the penalty.

    The loss is differentiated once more on the same minibatch by autograd, with the penalty written out.
    """
    mir = SpiedMIR(batch_size_mem=4, mem_size=20, subsample=10)
    losses = []

    class Compared(Watched):
        def backward(self):
            """Compare with a written-out penalty on autograd's own graph."""
            parameters = dict(self.model.named_parameters())
            penalised = torch.autograd.grad(self.loss, list(parameters.values()), retain_graph=True)
            losses.append(dict(zip(parameters, (g.clone() for g in penalised), strict=True)))
            super().backward()

    _, steps, _ = run([plugin, mir] if first else [mir, plugin], plugin, experiences=3, kind=Compared)
    assert mir.replay_loader is not None, "MIR had nothing to replay"
    for step, seen in zip(steps, losses[-len(steps) :], strict=True):
        assert_close(step["grad"], seen, rtol=1e-5, what="gradient of backward() against autograd.grad")


@pytest.mark.parametrize("first", [True, False], ids=["plugin-first", "plugin-last"])
def test_the_virtual_step_of_retrieval_sees_the_penalty_if_it_comes_after(plugin, first):
    mir = SpiedMIR(batch_size_mem=4, mem_size=20, subsample=10)
    virtual = []

    class Recorded(Watched):
        def optimizer_step(self):
            """Keep MIR's gradient apart from the step."""
            virtual.append(dict(zip(dict(self.model.named_parameters()), self.virtual, strict=True)))
            super().optimizer_step()

    terms, steps, _ = run([plugin, mir] if first else [mir, plugin], plugin, experiences=3, kind=Recorded)
    for step, seen in zip(steps, virtual[-len(steps) :], strict=True):
        penalty = (lambda theta: penalty_of(plugin, theta, terms)) if first else (lambda theta: 0)
        assert_close(seen, explicit_gradient(step, cross_entropy, penalty), rtol=1e-4, what="MIR's gradient")


def test_keep_gradients_as_zeros(plugin_name):
    """``zero_grad(set_to_none=False)`` trains to the same numbers."""
    results = []
    for keep in (False, True):
        plugin = PLUGINS[plugin_name]()
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if keep:
            clear = optimizer.zero_grad
            optimizer.zero_grad = lambda set_to_none=False, clear=clear: clear(set_to_none=False)
        strategy = strategy_for(model, [plugin], optimizer=optimizer)
        torch.manual_seed(3)
        strategy.train(class_incremental().train_stream, eval_streams=[])
        results.append((parameters_of(model), plugin.importance))
    assert_close(results[1][0], results[0][0], rtol=1e-6, what="parameters")
    assert_close(results[1][1], results[0][1], rtol=1e-5, what="importance")
