"""Training with the penalty in closed form is training with the penalty written out for autograd."""

import contextlib
import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import LwFPlugin, ReplayPlugin
from avalanche.training.supervised import Naive

from clreg_plugins import L2Plugin, QuadraticPenalty
from tests import penalties
from tests.plugins.digits import (
    PLUGINS,
    MultiHead,
    assert_close,
    class_incremental,
    cnn,
    mlp,
    parameters_of,
    strategy_for,
    task_incremental,
)
from tests.plugins.test_gradients import Scaling
from tests.plugins.test_gradients_scaled import Accumulating, WithGradScaler


@contextlib.contextmanager
def written_out():
    """The penalty as an expression that autograd differentiates by itself."""

    def expression(penalty, step, parameters):
        return penalties.written_out(penalty, parameters, step.strength).to(step.value.dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QuadraticPenalty, "differentiable", expression)
        yield


class Recording(Naive):
    """Keeps the loss that each step reports."""

    def backward(self):
        """Record, then differentiate."""
        self.losses = [*getattr(self, "losses", []), self.loss.item()]
        super().backward()


def train(names, *, model=mlp, stream=class_incremental, together_with=(), first=False, kind=Recording, sgd=None):
    plugins = [PLUGINS[name]() for name in names]
    others = [make() for make in together_with]
    network = model()
    optimizer = (sgd or (lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.5)))(network.parameters())
    order = [*others, *plugins] if first else [*plugins, *others]
    strategy = strategy_for(network, order, kind=kind, optimizer=optimizer)
    torch.manual_seed(3)
    for experience in stream().train_stream:
        strategy.train(experience, eval_streams=[], shuffle=False)
    return network, plugins, strategy


def assert_same(names, **options):
    ours = train(names, **options)
    with written_out():
        plain = train(names, **options)
    start = parameters_of(options.get("model", mlp)())
    moved = {n: (p - start[n]).abs().max() if n in start else p.abs().max() for n, p in parameters_of(ours[0]).items()}
    assert max(moved.values()) > 1e-3, "nothing was learned: the test shows nothing"
    assert_close(parameters_of(ours[0]), parameters_of(plain[0]), rtol=1e-5, what="parameters")
    for got, expected in zip(ours[1], plain[1], strict=True):
        assert_close(got.importance, expected.importance, rtol=1e-4, what=f"importance of {type(got).__name__}")
    assert ours[2].losses == pytest.approx(plain[2].losses, rel=1e-4)
    return ours, plain


class Clearing(torch.optim.SGD):
    """Keeps gradients as zeros."""

    def zero_grad(self, set_to_none=False):
        """In place."""
        super().zero_grad(set_to_none=False)


@pytest.mark.parametrize("model", [mlp, cnn], ids=["mlp", "cnn"])
def test_training_is_the_same(plugin_name, model):
    images = model is cnn
    assert_same([plugin_name], model=model, stream=lambda: class_incremental(image=images))


def test_gradients_of_heads_that_the_loss_does_not_reach(plugin_name):
    assert_same([plugin_name], model=MultiHead, stream=task_incremental)


def test_gradients_that_are_kept_as_zeros(plugin_name):
    assert_same([plugin_name], sgd=lambda parameters: Clearing(parameters, lr=0.05))


@pytest.mark.parametrize("first", [True, False], ids=["plugin-last", "plugin-first"])
@pytest.mark.parametrize("other", ["replay", "distillation"])
def test_beside_other_plugins(plugin_name, other, first):
    make = {"replay": lambda: ReplayPlugin(mem_size=12), "distillation": lambda: LwFPlugin(alpha=0.7, temperature=2.0)}
    assert_same([plugin_name], together_with=[make[other]], first=first)


def test_a_loss_that_was_scaled_before_the_penalty(plugin_name):
    assert_same([plugin_name], together_with=[lambda: Scaling(in_place=False)], first=True)


def test_a_model_that_is_compiled():
    def compiled():
        return torch.compile(mlp(), backend="eager")

    ours = train(["EWC"], model=compiled)
    with written_out():
        plain = train(["EWC"], model=compiled)
    assert_close(parameters_of(ours[0]), parameters_of(plain[0]), rtol=1e-5, what="parameters")


@pytest.mark.parametrize("names", [["EWC", "SI"], ["SI", "MAS"], ["KFAC", "SI"]], ids=" before ".join)
@pytest.mark.parametrize("every", [1, 3])
def test_two_plugins_and_minibatches_that_add_up(names, every):
    def adding(parameters):
        optimizer = Accumulating(parameters, lr=0.02)
        optimizer.every = every
        return optimizer

    assert_same(names, sgd=adding)


def test_parameters_without_graph_in_the_loss(plugin_name):
    """A penalty on a loss that is a constant: only the penalty's gradient moves anything."""

    class Constant(Recording):
        def criterion(self):
            """No graph once there is a penalty."""
            loss = super().criterion()
            return loss.detach() if self.clock.train_exp_counter else loss

    assert_same([plugin_name], kind=Constant)


@pytest.mark.parametrize("in_place", [True, False], ids=["in-place", "new-tensor"])
def test_a_loss_that_is_scaled_behind_the_penalty(plugin_name, in_place):
    assert_same([plugin_name], together_with=[lambda: Scaling(in_place)])


def test_a_gradient_scaler(plugin_name):
    class Scaled(WithGradScaler):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

        def backward(self):
            """And record."""
            self.losses = [*getattr(self, "losses", []), self.loss.item()]
            super().backward()

    assert_same([plugin_name], kind=Scaled)


def test_a_scale_times_a_strength_beyond_the_range_of_numbers():
    """Their product is infinite in float32, and that of both with the gradient is not."""
    options = {"strength": 1e9, "offset": 1e-9, "scale": 2.0**110}
    for ours, expression, task in gradients_of(torch.float32, **options):
        assert ours.isfinite().all()
        assert (expression - task).abs().max() > 0.1 * task.abs().max(), "the penalty would not be missed"
        torch.testing.assert_close(ours, expression, rtol=1e-5, atol=1e-5 * expression.abs().max().item())


@pytest.mark.parametrize("summed", [True, False], ids=["sum", "mean"])
def test_minibatches_that_add_up_to_a_step(plugin_name, summed):
    class Parts(Recording):
        def backward(self):
            """A third."""
            self.loss = self.loss / (1 if summed else 3)
            super().backward()

    def adding(parameters):
        optimizer = Accumulating(parameters, lr=0.02)
        optimizer.every = 3
        return optimizer

    assert_same([plugin_name], kind=Parts, sgd=adding)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_cleared_after_the_penalty_was_added_to_the_loss(plugin_name, set_to_none):
    class Late(Recording):
        def backward(self):
            """Clear, then differentiate, as many loops do."""
            self.optimizer.zero_grad(set_to_none=set_to_none)
            super().backward()

    assert_same([plugin_name], kind=Late)


@pytest.mark.parametrize("name", ["EWC", "OnlineEWC", "KFAC", "MAS", "L2"])
def test_gradients_clipped_as_soon_as_they_are_there(name):
    """The whole gradient is clipped, the penalty's with the task's. (SI reads the task's after ``backward()``.)"""

    class Clipped(Recording):
        def backward(self):
            """Then clip."""
            super().backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)

    assert_same([name], kind=Clipped)


def test_sparse_gradients():
    assert_same(["L2"], model=Words, sgd=lambda parameters: torch.optim.SGD(parameters, lr=0.5))


class Words(torch.nn.Module):
    """Whether a pixel is dark or light, embedded."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(128, 8, sparse=True)
        self.classifier = torch.nn.Linear(8, 10)

    def forward(self, x):
        """The mean over pixels."""
        words = (x.flatten(1) > 0.3).long() + 2 * torch.arange(x[0].numel())
        return self.classifier(self.embedding(words).mean(dim=1))


def test_who_asks_for_the_value_elsewhere_amid_a_step_disturbs_nothing(plugin_name):
    """The value at other parameters, between the penalty and its gradient: as a line search might."""

    class Asking(SupervisedPlugin):
        values = ()

        def before_backward(self, strategy, **kwargs):
            """At the origin."""
            origin = {name: torch.zeros_like(p) for name, p in strategy.model.named_parameters()}
            self.values = [*self.values, strategy.plugins[0].penalty.value(origin).item()]

    asking = Asking()
    asked, plain = train([plugin_name], together_with=[lambda: asking]), train([plugin_name])
    assert any(asking.values), "there never was a penalty"
    assert_close(parameters_of(asked[0]), parameters_of(plain[0]), rtol=0, atol=0, what="parameters")
    assert_close(asked[1][0].importance, plain[1][0].importance, rtol=0, atol=0, what="importance")


def test_weights_of_another_memory_format(plugin_name):
    def channels_last():
        return cnn().to(memory_format=torch.channels_last)

    assert_same([plugin_name], model=channels_last, stream=lambda: class_incremental(image=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_parameters_of_other_types(dtype):
    """State and products are float32 or wider, and each sum is rounded once to the type of the gradient."""
    eps = torch.finfo(dtype).eps
    for ours, expression, task in gradients_of(dtype):
        assert ours.dtype == dtype
        assert (expression - task).abs().max() > 20 * eps * task.abs().max(), "the penalty would not be missed"
        torch.testing.assert_close(ours, expression, rtol=2 * eps, atol=2 * eps * expression.abs().max().item())


def gradients_of(dtype, **options):
    """For each parameter: ours, that of the written-out penalty, and that without a penalty."""
    with written_out():
        expression = gradient_of(dtype, **options)
    return zip(gradient_of(dtype, **options), expression, gradient_of(dtype, penalised=False, **options), strict=True)


def gradient_of(dtype, strength=3.0, offset=0.1, scale=1.0, penalised=True):
    """Of a loss, by an offset away from where the penalty has its centre."""
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3).to(dtype)
    strategy = SimpleNamespace(model=model, optimizer=None, experience=None)
    plugin = L2Plugin(strength, consolidation="manual")
    plugin.before_training_exp(strategy)
    for consolidate in (True, False):
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(0.0 if consolidate else offset)
        if consolidate:
            plugin.consolidate(strategy)
    strategy.loss = model(torch.rand(4, 5).to(dtype)).square().mean()
    if penalised:
        plugin.before_backward(strategy)
    (strategy.loss * scale).backward()
    return [p.grad for p in model.parameters()]


def test_a_loss_differentiated_twice_has_the_gradient_twice(plugin_name):
    class Twice(Recording):
        def backward(self):
            """Both add up."""
            self.loss.backward(retain_graph=True)
            super().backward()

    assert_same([plugin_name], kind=Twice)


def test_retrieval_that_differentiates_the_loss_before_the_plugin_is_allowed(plugin_name):
    assert_same([plugin_name], together_with=[Differentiating], first=True)


class Differentiating(SupervisedPlugin):
    """Differentiates the loss before the backward pass, as MIR does for its virtual step."""

    def before_backward(self, strategy, **kwargs):
        """Look at the gradient."""
        torch.autograd.grad(strategy.loss, list(strategy.model.parameters()), retain_graph=True, allow_unused=True)


# -------------------------------------------------------------------------- state


def test_the_plugin_pickles_and_goes_on_amid_training(plugin_name):
    _, (plugin,), strategy = train([plugin_name])
    again = pickle.loads(pickle.dumps(plugin))
    assert_close(again.importance, plugin.importance, rtol=0, atol=0)
    model = copy.deepcopy(strategy.model)
    other = strategy_for(model, [again])
    other.train(class_incremental().train_stream[0], eval_streams=[])


def test_no_gradient_is_shared_between_parameters_or_with_the_state(plugin_name):
    model, (plugin,), _ = train([plugin_name])
    places = [p.grad.data_ptr() for p in model.parameters()]
    held = [plugin.penalty.importance, plugin.penalty.anchor, *plugin._work[1:3]]
    for tensors in [*held, plugin._omega] if plugin_name == "SI" else held:
        places += [t.data_ptr() for t in tensors.values()]
    places += [p.data_ptr() for p in model.parameters()]
    assert len(set(places)) == len(places)
