"""``gradient_path="direct"`` is refused where only "autograd" would be right."""

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import MIRPlugin
from avalanche.training.supervised import Naive

from tests.plugins.digits import PLUGINS, mlp
from tests.plugins.test_gradient_path import Differentiating, assert_same, train

REFUSED = 'gradient_path="direct".*allowed here: gradient_path="autograd"'
BY_SI = "did not differentiate strategy.loss as SIPlugin left it"
"""SI's own message: it misses something in the backward pass before there is a penalty."""


def test_retrieval_that_differentiates_the_loss_is_refused_behind_the_plugin(plugin_name):
    with pytest.raises(RuntimeError, match=f"differentiated by torch.autograd.grad.*{REFUSED}"):
        train([plugin_name], "direct", beside=[Differentiating], kind=Naive)


def test_mir_itself():
    """It differentiates the loss for a virtual step, once it has something to replay."""
    mir = [lambda: MIRPlugin(batch_size_mem=4, mem_size=20, subsample=10)]
    assert_same(["EWC"], beside=mir, first=True)
    with pytest.raises(RuntimeError, match=REFUSED):
        train(["EWC"], "direct", beside=mir)


@pytest.mark.parametrize("some", [True, False], ids=["some-inputs", "all"])
def test_gradients_that_a_strategy_asks_for_itself_are_refused(plugin_name, some):
    class Asking(Naive):
        def backward(self):
            """Without accumulation in the leaves of the graph, or in few of them."""
            parameters = list(self.model.parameters())
            if some:
                self.loss.backward(inputs=parameters[:1])
            else:
                for p, g in zip(parameters, torch.autograd.grad(self.loss, parameters), strict=True):
                    p.grad = g

    with pytest.raises(RuntimeError, match=f"differentiated by torch.autograd.grad.*{REFUSED}|{BY_SI}"):
        train([plugin_name], "direct", kind=Asking)


def test_a_loss_differentiated_again_behind_after_backward_is_refused(plugin_name):
    class Again(SupervisedPlugin):
        def after_backward(self, strategy, **kwargs):
            """Once more."""
            strategy.loss.backward()

    class Keeping(Naive):
        def backward(self):
            """Keep the graph."""
            self.loss.backward(retain_graph=True)

    with pytest.raises(RuntimeError, match=f"differentiated again after after_backward.*{REFUSED}"):
        train([plugin_name], "direct", beside=[Again], kind=Keeping)


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")  # with create_graph, which leaves a cycle
def test_gradients_with_a_graph_are_refused(plugin_name):
    class WithGraph(Naive):
        def backward(self):
            """As second-order methods do."""
            self.loss.backward(create_graph=True)

    with pytest.raises(RuntimeError, match=f"create_graph=True.*{REFUSED}"):
        train([plugin_name], "direct", kind=WithGraph)


def test_a_loss_that_is_replaced_is_refused(plugin_name):
    class Replacing(SupervisedPlugin):
        def before_backward(self, strategy, **kwargs):
            """Forget the penalty."""
            strategy.loss = strategy.criterion()

    with pytest.raises(
        RuntimeError, match=f"did not differentiate strategy.loss as the plugin left it.*{REFUSED}|{BY_SI}"
    ):
        train([plugin_name], "direct", beside=[Replacing])


def halve(parameter):
    """The gradient that is there."""
    parameter.grad /= 2


@pytest.mark.parametrize("accumulated", [False, True], ids=["before", "after-accumulation"])
def test_a_hook_on_a_gradient_is_refused(plugin_name, accumulated):
    def hooked():
        model = mlp()
        weight = model[0].weight
        if accumulated:
            weight.register_post_accumulate_grad_hook(halve)
        else:
            weight.register_hook(lambda gradient: gradient / 2)
        return model

    with pytest.raises(RuntimeError, match=f"parameter '0.weight' has a hook on its gradient.*{REFUSED}"):
        train([plugin_name], "direct", model=hooked)


def test_a_hook_that_comes_behind_the_plugin_is_refused(plugin_name):
    class Hooking(SupervisedPlugin):
        def before_backward(self, strategy, **kwargs):
            """Register."""
            next(strategy.model.parameters()).register_hook(lambda gradient: gradient / 2)

    with pytest.raises(RuntimeError, match=f"parameter '0.weight' has a hook on its gradient.*{REFUSED}"):
        train([plugin_name], "direct", beside=[Hooking])


def test_a_distributed_model_is_refused(plugin_name, monkeypatch):
    class Wrapper(torch.nn.Module):
        """Stands for DistributedDataParallel, which needs processes."""

        def __init__(self):
            super().__init__()
            self.module = mlp()

        def forward(self, x):
            return self.module(x)

    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", Wrapper)
    with pytest.raises(RuntimeError, match=f"{REFUSED[:22]}.*DistributedDataParallel"):
        train([plugin_name], "direct", model=Wrapper)


def test_an_unknown_path_is_refused(plugin_name):
    with pytest.raises(ValueError, match="gradient_path is 'fast'; allowed: autograd, direct"):
        PLUGINS[plugin_name](gradient_path="fast")
