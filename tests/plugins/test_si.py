"""Synaptic Intelligence: ω is the drop of the loss, along the way that the optimizer really went."""

import pytest
import torch
import torch.nn.functional as F
from avalanche.training.supervised import Naive

from clreg_plugins import SIPlugin
from tests.plugins.digits import Counted, assert_close, class_incremental, mlp, parameters_of, strategy_for


def task_loss(model, experience):
    """The cross-entropy of a model on a whole experience."""
    x, y, _ = next(iter(torch.utils.data.DataLoader(experience.dataset, batch_size=len(experience.dataset))))
    with torch.no_grad():
        return F.cross_entropy(model(x), y).item()


def omega_sum(plugin):
    """Σ_i ω_i of the experience under way."""
    return sum(omega.double().sum().item() for omega in plugin.path_integral.values())


class Before(SIPlugin):
    """Keeps Σω and ω as they are when the experience ends, before they are consolidated."""

    def after_training_exp(self, strategy, **kwargs):
        """Look, then consolidate."""
        self.drop = omega_sum(self)
        self.omega = {name: omega.clone() for name, omega in self.path_integral.items()}
        super().after_training_exp(strategy, **kwargs)


def descend(plugin, experiences=2, lr=0.002, steps=150):
    """Full-batch gradient descent in small steps. Yields losses before and after each experience."""
    stream = class_incremental(experiences).train_stream
    model = mlp().double()
    strategy = strategy_for(
        Widened(model),
        [plugin],
        optimizer=torch.optim.SGD(model.parameters(), lr=lr),
        train_mb_size=40,
        train_epochs=steps,
    )
    drops = []
    for experience in stream:
        penalty = plugin.reg_lambda / 2 * plugin.penalty.value(plugin._parameters).item() if drops else 0.0
        before = task_loss(strategy.model, experience)
        counted_penalty = dict(plugin.importance), dict(plugin.anchor)
        counted_penalty = tuple({n: v.clone() for n, v in part.items()} for part in counted_penalty)
        strategy.train(experience, eval_streams=[])
        after = task_loss(strategy.model, experience)
        importance, anchor = counted_penalty
        later = sum(
            (importance[n] * (p.detach() - anchor[n]) ** 2).sum().item()
            for n, p in strategy.model.named_parameters()
            if n in importance
        )
        drops.append({"task": before - after, "penalty": penalty - plugin.reg_lambda / 2 * later, "omega": plugin.drop})
    return drops


class Widened(torch.nn.Module):
    """A float64 model on float32 data."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        """Logits in float64."""
        return self.inner(x.double())


@pytest.mark.parametrize("gradient", ["task", "total"])
def test_the_sum_of_omega_is_the_drop_of_the_loss(gradient):
    """Within 1%, without a penalty (first experience) and with one; "total" counts the penalty's rise."""
    drops = descend(Before(20.0, xi=0.1, gradient=gradient))
    for t, drop in enumerate(drops):
        expected = drop["task"] + (drop["penalty"] if gradient == "total" else 0.0)
        error = abs(drop["omega"] - expected) / abs(expected)
        assert error < 0.01, f"experience {t}: Σω = {drop['omega']:.5f}, the loss fell by {expected:.5f} ({error:.2%})"
    rise = -drops[1]["penalty"] / drops[1]["task"]
    assert rise > 0.02, f"the penalty rose by only {rise:.2%} of the drop: the two gradients cannot be told apart"


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "Adam for-loop": lambda p: torch.optim.Adam(p, lr=0.01, foreach=False),
    "Adam fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "AdamW amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.003),
}


class Recorded(Naive):
    """Sums −g·Δθ with g from a separate call of autograd and Δθ from copies around the optimizer's step."""

    reference = None

    def backward(self):
        """The task's gradient at this θ, on this minibatch, by autograd alone."""
        parameters = dict(self.model.named_parameters())
        again = F.cross_entropy(self.model(self.mb_x), self.mb_y)
        self.g = dict(zip(parameters, torch.autograd.grad(again, list(parameters.values())), strict=True))
        super().backward()

    def optimizer_step(self):
        """Δθ as made."""
        before = parameters_of(self.model)
        super().optimizer_step()
        reference = self.reference or {n: torch.zeros_like(p, dtype=torch.float64) for n, p in before.items()}
        for name, p in self.model.named_parameters():
            reference[name] = reference[name] - self.g[name].double() * (p.detach() - before[name]).double()
        self.reference = reference


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_displacement_is_what_the_optimizer_did(optimizer):
    """In the first experience and, with the penalty active, in the second."""
    plugin = Before(5.0, xi=0.1)
    model = mlp()
    strategy = strategy_for(
        model, [plugin], kind=Recorded, optimizer=OPTIMIZERS[optimizer](model.parameters()), train_epochs=3
    )
    for t, experience in enumerate(class_incremental().train_stream):
        strategy.reference = None
        strategy.train(experience, eval_streams=[])
        reference = {n: v.float() for n, v in strategy.reference.items()}
        assert_close(plugin.omega, reference, rtol=2e-3, what=f"ω of experience {t}")
    total = sum(v.sum().item() for v in reference.values())
    assert abs(total) > 1e-2, f"Σω is only {total:.1e}"


@pytest.mark.parametrize("clip", [True, False])
def test_importance_is_the_sum_over_experiences(clip):
    """Ω ← clip(Ω + ω/(Δ² + ξ)), Δ over each experience. The first one goes uphill: its ω is negative."""
    plugin = Before(0.5, xi=0.01, clip=clip)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, maximize=True)
    strategy = strategy_for(model, [plugin], optimizer=optimizer)
    expected = {n: torch.zeros_like(p) for n, p in parameters_of(model).items()}
    for experience in class_incremental().train_stream:
        start = parameters_of(model)
        strategy.train(experience, eval_streams=[])
        end = parameters_of(model)
        for name in expected:
            expected[name] += plugin.omega[name] / ((end[name] - start[name]) ** 2 + 0.01)
            if clip:
                expected[name].clamp_(min=0)
        assert_close(plugin.importance, expected, rtol=1e-4, what="Ω")
        if optimizer.param_groups[0]["maximize"]:
            lowest = min(value.min().item() for value in plugin.importance.values())
            assert (lowest == 0) if clip else (lowest < -0.01), f"the smallest Ω after going uphill is {lowest}"
            optimizer.param_groups[0]["maximize"] = False
    assert max(value.max().item() for value in plugin.importance.values()) > 0


def test_frozen_and_unreached_parameters_have_no_path():
    class Spare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = mlp(), torch.nn.Linear(3, 3)
            self.used[0].requires_grad_(False)

        def forward(self, x):
            return self.used(x)

    plugin = SIPlugin(1.0)
    counted = Counted(plugin)
    strategy_for(Spare(), [plugin]).train(class_incremental().train_stream, eval_streams=[])
    for term in counted.terms:
        for name in ("used.0.weight", "spare.weight", "spare.bias"):
            assert not term["total"][name].any(), f"{name} has a path integral although it never moved"
        assert term["importance"]["used.2.weight"].any()
    assert "used.0.weight" not in plugin.path_integral


def test_weight_decay_on_a_parameter_whose_gradient_is_kept_as_zero():
    """With ``set_to_none=False`` and weight decay, which moves parameters but is no gradient of the loss."""
    plugin = Before(1.0)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    clear = optimizer.zero_grad
    optimizer.zero_grad = lambda set_to_none=False: clear(set_to_none=False)
    strategy = strategy_for(model, [plugin], optimizer=optimizer, kind=Recorded)
    strategy.train(class_incremental(1).train_stream[0], eval_streams=[])
    assert_close(plugin.omega, {n: v.float() for n, v in strategy.reference.items()}, rtol=2e-3, what="ω")


def test_the_order_of_names_in_a_state_does_not_matter():
    plugin = SIPlugin(1.0)
    strategy = strategy_for(mlp(), [plugin])
    strategy.train(class_incremental().train_stream[0], eval_streams=[])
    state = plugin.state_dict()
    for k, omega in enumerate(state["path_integral"].values()):
        omega.fill_(k)
    backwards = {**state, "path_integral": dict(reversed(state["path_integral"].items()))}
    results = []
    for each in (state, backwards):
        again = SIPlugin(1.0)
        again.load_state_dict(each)
        torch.manual_seed(0)
        strategy_for(mlp(), [again]).train(class_incremental().train_stream[1], eval_streams=[])
        results.append(again.importance)
    assert_close(results[1], results[0], rtol=0, atol=0)


def test_an_infinite_gradient_of_a_parameter_that_is_not_trained_is_no_importance():
    """One that requires a gradient, which the optimizer does not have."""

    class Overflowing(Naive):
        def backward(self):
            super().backward()
            self.model[0].weight.grad.fill_(torch.inf)

    model, plugin = mlp(), SIPlugin(1.0)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    optimizer.add_param_group({"params": []})
    strategy = strategy_for(model, [plugin], kind=Overflowing, optimizer=optimizer)
    strategy.make_optimizer = lambda **kwargs: None
    strategy.train(class_incremental().train_stream[0], eval_streams=[])
    assert not plugin.importance["0.weight"].any()
    assert plugin.importance["2.weight"].any()
