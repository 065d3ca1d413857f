"""GradScaler and gradient accumulation: the optimizer gets the gradient of the whole loss."""

import pytest
import torch
from avalanche.training.supervised import Naive

from tests.plugins.digits import PLUGINS, assert_close, class_incremental, mlp, parameters_of, strategy_for


class WithGradScaler(Naive):
    """Mixed precision as the PyTorch documentation writes it."""

    scaler = None

    def backward(self):
        """Scaled."""
        self.scaler.scale(self.loss).backward()

    def optimizer_step(self):
        """Unscaled, and skipped where a gradient is infinite."""
        self.scaler.step(self.optimizer)
        self.scaler.update()


class Accumulating(torch.optim.SGD):
    """Gradients of ``every`` minibatches add up before a step; the other steps and clearings do nothing."""

    every = 1
    calls = 0

    def zero_grad(self, set_to_none=True):
        """Clear at the first of ``every`` minibatches."""
        if self.calls % self.every == 0:
            super().zero_grad(set_to_none)

    def step(self, closure=None):
        """Step at the last of ``every`` minibatches."""
        self.calls += 1
        return super().step() if self.calls % self.every == 0 else None


def train_with(plugin, optimizer_of, kind=Naive, scaler=None, batch=10):
    model = mlp()
    strategy = strategy_for(model, [plugin], kind=kind, optimizer=optimizer_of(model), train_mb_size=batch)
    strategy.scaler = scaler
    torch.manual_seed(3)
    for experience in class_incremental().train_stream:
        strategy.train(experience, eval_streams=[], shuffle=False)
    return parameters_of(model), plugin.importance, strategy


def sgd(model):
    """Plain gradient descent."""
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_a_scaled_loss_trains_to_the_same_numbers(plugin_name):
    """The scale is a power of two: the numbers are the same up to rounding in the penalty's closed form."""
    plain = train_with(PLUGINS[plugin_name](), sgd)
    scaled = train_with(PLUGINS[plugin_name](), sgd, WithGradScaler, torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert_close(scaled[0], plain[0], rtol=1e-5, what="parameters")
    assert_close(scaled[1], plain[1], rtol=1e-4, what="importance")


@pytest.mark.parametrize("mean", [True, False], ids=["mean", "sum"])
def test_accumulated_minibatches_are_one_large_batch(plugin_name, mean):
    """Four minibatches of 10 summed are one of 40: the task's and the penalty's gradient both add up."""
    every = 4

    def accumulating(model):
        optimizer = Accumulating(model.parameters(), lr=0.1 / every if not mean else 0.1)
        optimizer.every = every
        return optimizer

    class Divided(Naive):
        def criterion(self):
            """The minibatch's share of the mean."""
            return super().criterion()

        def backward(self):
            """Divide by the number of minibatches."""
            (self.loss / every if mean else self.loss).backward()

    whole = train_with(PLUGINS[plugin_name](), sgd, batch=40)
    parts = train_with(PLUGINS[plugin_name](), accumulating, kind=Divided, batch=10)
    assert_close(parts[0], whole[0], rtol=1e-4, what="parameters")
    assert_close(parts[1], whole[1], rtol=1e-3, what="importance")
