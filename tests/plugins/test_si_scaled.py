"""ω does not depend on what the loss was multiplied by, and a skipped step adds nothing to it."""

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.supervised import Naive

from clreg_plugins import SIPlugin
from tests.plugins.digits import assert_close, class_incremental, mlp, strategy_for
from tests.plugins.test_gradients import Scaling
from tests.plugins.test_gradients_scaled import Accumulating, WithGradScaler
from tests.plugins.test_si import Before


def path_of(plugins, plugin, optimizer_of, kind=Naive, scaler=None, batch=10, **options):
    """ω of the second experience, where the penalty is active."""
    model = mlp()
    strategy = strategy_for(model, plugins, kind=kind, optimizer=optimizer_of(model), train_mb_size=batch, **options)
    strategy.scaler = scaler
    for experience in class_incremental(2).train_stream:
        strategy.train(experience, eval_streams=[], shuffle=False)
    return plugin.omega


def adam(model):
    """An optimizer whose steps do not depend on the loss's scale (but for its ε)."""
    return torch.optim.Adam(model.parameters(), lr=0.005, eps=1e-12)


def sgd(lr):
    """Plain gradient descent."""
    return lambda model: torch.optim.SGD(model.parameters(), lr=lr)


@pytest.mark.parametrize("in_place", [True, False], ids=["in-place", "new-tensor"])
def test_a_loss_scaled_by_a_plugin_behind(in_place):
    """Half the loss and twice the learning rate: the same steps, and the same ω of the unscaled task."""
    plain = path_of([p := Before(5.0)], p, sgd(0.1))
    p = Before(5.0)
    scaled = path_of([p, Scaling(in_place)], p, sgd(0.2))
    assert_close(scaled, plain, rtol=1e-3, what="ω")


@pytest.mark.parametrize("gradient", ["task", "total"])
def test_a_grad_scaler(gradient):
    plain = path_of([p := Before(5.0, gradient=gradient)], p, sgd(0.1))
    p = Before(5.0, gradient=gradient)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    scaled = path_of([p], p, sgd(0.1), WithGradScaler, scaler)
    assert_close(scaled, plain, rtol=1e-3, what="ω")


@pytest.mark.parametrize("keep", [False, True], ids=["set-to-none", "set-to-zero"])
@pytest.mark.parametrize("gradient", ["task", "total"])
def test_accumulated_gradients(gradient, keep):
    """Four minibatches accumulated and one of four times the size give the same ω."""

    def accumulating(model):
        optimizer = Accumulating(model.parameters(), lr=0.1)
        optimizer.every = 4
        if keep:
            clear = optimizer.zero_grad
            optimizer.zero_grad = lambda set_to_none=False: clear(False)
        return optimizer

    class Quarter(Naive):
        def backward(self):
            (self.loss / 4).backward()

    whole = path_of([p := Before(5.0, gradient=gradient)], p, sgd(0.1), batch=40, train_epochs=3)
    p = Before(5.0, gradient=gradient)
    parts = path_of([p], p, accumulating, Quarter, train_epochs=3)
    assert_close(parts, whole, rtol=2e-3, what="ω")


class AccumulatingStrategy(Naive):
    """Accumulation in the loop itself: the update's callbacks fire only where a step is made."""

    every = 4

    def training_epoch(self, **kwargs):
        """A step every four minibatches."""
        self.optimizer.zero_grad()
        for k, minibatch in enumerate(self.dataloader, start=1):
            self.mbatch = minibatch
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            self._before_forward(**kwargs)
            self.mb_output = self.forward()
            self._after_forward(**kwargs)
            self.loss = self.criterion() / self.every
            self._before_backward(**kwargs)
            self.backward()
            self._after_backward(**kwargs)
            if k % self.every == 0:
                self._before_update(**kwargs)
                self.optimizer_step()
                self._after_update(**kwargs)
                self.optimizer.zero_grad()
            self._after_training_iteration(**kwargs)


def test_accumulation_by_a_loop_of_ones_own():
    """Each minibatch's loss is a quarter, and so is ω; the penalty, likewise, is added four times."""
    whole = path_of([p := Before(5.0)], p, sgd(0.1), batch=40, train_epochs=3)
    p = Before(5.0)
    parts = path_of([p], p, sgd(0.1), AccumulatingStrategy, train_epochs=3)
    assert_close({n: 4 * v for n, v in parts.items()}, whole, rtol=2e-3, what="ω")


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_skipped_for_infinity_adds_nothing(fused):
    """GradScaler skips a step whose gradient overflowed: ω stays finite and as it was."""
    sums = []

    class Overflowing(WithGradScaler):
        def backward(self):
            """Spoil the gradient of the second step, as an overflow would."""
            super().backward()
            if self.clock.train_exp_iterations == 1:
                for p in self.model.parameters():
                    p.grad[0] = float("inf")

    class Look(SupervisedPlugin):
        def after_update(self, strategy, **kwargs):
            """ω after each step."""
            sums.append({n: v.clone() for n, v in plugin.path_integral.items()})

    plugin = SIPlugin(1.0)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    strategy = strategy_for(model, [plugin, Look()], kind=Overflowing, optimizer=optimizer)
    strategy.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    strategy.train(class_incremental(1).train_stream[0], eval_streams=[])
    for name in sums[0]:
        assert torch.isfinite(sums[1][name]).all(), f"ω of {name} is not finite after a skipped step"
        assert torch.equal(sums[1][name], sums[0][name]), f"ω of {name} changed in a skipped step"
        assert not torch.equal(sums[2][name], sums[1][name]) or not sums[2][name].any(), f"ω of {name} stands still"
    assert strategy.scaler.get_scale() == 32.0, f"the scale is {strategy.scaler.get_scale()}: no step was skipped"


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_taken_is_not_mistaken_for_a_skipped_one(fused):
    """Fused optimizers write to parameters unseen by autograd; ω would be right all the same, but two passes dearer."""
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    plugin = SIPlugin(1.0)
    strategy = strategy_for(model, [plugin], optimizer=optimizer)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        strategy.train(class_incremental(1).train_stream[0], eval_streams=[])
    assert any(importance.any() for importance in plugin.importance.values()), "no path integral was taken"
    still = {event.key: event.count for event in profile.key_averages()}.get("aten::masked_fill_", 0)
    assert not still, f"{still} parameters looked as if they had not moved"


def test_a_scale_that_overflows_the_loss_itself():
    """A scale so large that gradients become infinite by themselves."""
    plugin = SIPlugin(1.0)
    model = mlp()
    strategy = strategy_for(
        model,
        [plugin],
        kind=WithGradScaler,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.001),
        criterion=lambda z, y: 100 * torch.nn.functional.cross_entropy(z, y),
        train_epochs=4,
    )
    strategy.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-8)
    strategy.train(class_incremental(2).train_stream, eval_streams=[])
    assert strategy.scaler.get_scale() < 2.0**127, "no step was skipped"
    for name, value in plugin.importance.items():
        assert torch.isfinite(value).all(), f"importance of {name} is not finite"
    assert any(value.any() for value in plugin.importance.values())


def test_a_plugin_in_front_that_replaces_the_loss_is_part_of_the_task():
    """What stands in strategy.loss when SI's turn comes is the task loss: ω is of that."""
    p = Before(5.0)
    scaled = path_of([Scaling(False), p], p, adam)
    assert all(torch.isfinite(v).all() for v in scaled.values())
    assert sum(v.sum().item() for v in scaled.values()) > 0


def test_a_loss_replaced_behind_is_refused():
    class Replacing(SupervisedPlugin):
        def before_backward(self, strategy, **kwargs):
            """Forget what others added."""
            strategy.loss = strategy.criterion()

    strategy = strategy_for(mlp(), [SIPlugin(1.0), Replacing()])
    with pytest.raises(RuntimeError, match=r"did not differentiate strategy\.loss"):
        strategy.train(class_incremental(1).train_stream, eval_streams=[])


class WarmUp(SupervisedPlugin):
    """Scales the loss from 0 up, over the first steps."""

    def before_backward(self, strategy, **kwargs):
        strategy.loss = strategy.loss * min(1.0, strategy.clock.train_exp_iterations / 2)


def test_a_loss_scaled_by_zero():
    """Such a step has no gradient: ω stays finite, and what follows counts."""
    omega = path_of([p := Before(5.0), WarmUp()], p, sgd(0.1))
    for name, value in omega.items():
        assert value.isfinite().all(), f"ω of {name} holds {value[~value.isfinite()][0]}"
    assert any(value.any() for value in omega.values())


class Silent(SupervisedPlugin):
    """Scales the loss by 0 from the second experience on."""

    def before_backward(self, strategy, **kwargs):
        strategy.loss = strategy.loss * (strategy.clock.train_exp_counter == 0)


@pytest.mark.parametrize("gradient", ["task", "total"])
def test_steps_without_a_gradient_leave_no_path_although_the_optimizer_moves_on(gradient):
    p = Before(5.0, gradient=gradient)
    omega = path_of([p, Silent()], p, lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    assert p.importance["0.weight"].any(), "the penalty had nothing to add"
    for name, value in omega.items():
        assert not value.any(), f"ω of {name} holds {value.abs().max().item():.2e}"
