"""What a plugin adds to a training step, counted in operations rather than seconds."""

from collections import Counter

import pytest
import torch
from avalanche.training.supervised import Naive
from torch.utils._python_dispatch import TorchDispatchMode

from clreg_plugins import RegularizationPlugin
from tests.plugins.digits import PLUGINS, class_incremental, strategy_for

VIEWS = (
    "view",
    "split",
    "_unsafe_view",
    "detach",
    "alias",
    "slice",
    "select",
    "expand",
    "t",
    "transpose",
    "as_strided",
)
OURS = {"EWC": 12, "OnlineEWC": 12, "MAS": 12, "L2": 12, "SI": 20}


class Counting(TorchDispatchMode):
    """Counts operations by name, views apart, and the entries of the tensors that they give."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ not in VIEWS:
            self.counts[function.overloadpacket.__name__] += 1
            self.entries += result.numel() if isinstance(result, torch.Tensor) else 0
        return result


class OneStepCounted(Naive):
    """Counts a step in the middle of the last experience, where no epoch begins or ends."""

    counted: Counter[str]
    active: list[int]  # parameters with importance, by plugin

    def training_epoch(self, **kwargs):
        for k, minibatch in enumerate(self.dataloader):
            self.mbatch = minibatch
            counting = Counting()
            with counting:
                self._unpack_minibatch()
                self._before_training_iteration(**kwargs)
                self.optimizer.zero_grad()
                self._before_forward(**kwargs)
                self.mb_output = self.forward()
                self._after_forward(**kwargs)
                self.loss = self._make_empty_loss() + self.criterion()
                self._before_backward(**kwargs)
                self.backward()
                self._after_backward(**kwargs)
                self._before_update(**kwargs)
                self.optimizer_step()
                self._after_update(**kwargs)
                self._after_training_iteration(**kwargs)
            if k == 2:
                self.counted = counting.counts
                self.active = [len(plugin.penalty.active) for plugin in self.plugins if hasattr(plugin, "penalty")]


class Parallel(torch.nn.Module):
    """The mean of linear layers, which all learn."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(64, 6) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(layer(x) for layer in self.layers) / len(self.layers)


def counted(plugins: list[RegularizationPlugin], layers: int) -> OneStepCounted:
    """Operations of a step in the third experience; the network has two tensors a layer."""
    torch.manual_seed(0)
    model = Parallel(layers)
    strategy = strategy_for(model, plugins, kind=OneStepCounted)
    for experience in class_incremental().train_stream:
        strategy.train(experience, eval_streams=[])
    return strategy


@pytest.mark.parametrize("name", OURS)
def test_a_step_adds_few_operations_whatever_the_number_of_tensors(name):
    ours = {}
    for layers in (3, 31):
        strategy = counted([PLUGINS[name]()], layers)
        added = strategy.counted
        added.subtract(counted([], layers).counted)
        (by_autograd,) = strategy.active  # it adds up two gradients for each tensor
        assert by_autograd == 2 * layers
        ours[2 * layers] = sum(added.values()) - by_autograd
    assert ours[62] <= OURS[name], f"{ours[62]} operations of ours: {dict(+added)}"
    assert ours[62] == ours[6], f"operations of ours by the number of tensors: {ours}"
