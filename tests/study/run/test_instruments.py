import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from study.run.instruments import Held, Instruments, held_bytes

CPU = torch.device("cpu")


def strategy(model: nn.Module, loss: float = 0.5) -> SimpleNamespace:
    return SimpleNamespace(model=model, loss=torch.tensor([loss]), device=CPU)


def test_the_loss_is_the_mean_over_an_experiences_steps():
    instruments, learner = Instruments(), strategy(nn.Linear(2, 2))
    for losses in ([0.5, 1.5], [4.0]):
        instruments.before_training_exp(learner)
        for loss in losses:
            learner.loss = torch.tensor([loss])
            instruments.before_backward(learner)
            learner.loss += 100  # as a penalty added in place
        instruments.after_training_epoch(learner)
        instruments.after_training_exp(learner)
        assert instruments.training_loss == sum(losses) / len(losses)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_or_a_parameter_that_is_not_finite_is_named(bad):
    instruments = Instruments()
    instruments.before_backward(strategy(nn.Linear(2, 2), bad))
    with pytest.raises(FloatingPointError, match=f"training loss became {bad}"):
        instruments.after_training_epoch(strategy(nn.Linear(2, 2)))
    model = nn.Linear(2, 2)
    model.bias.data[1] = bad
    with pytest.raises(FloatingPointError, match="'bias'"):
        Instruments().after_training_exp(strategy(model))


class Holder:
    """As a plugin, which holds what the test gives it."""

    def __init__(self, **held: object) -> None:
        self.__dict__.update(held)


def test_bytes_held_are_those_of_every_tensor_once_and_none_of_the_models():
    model = nn.Linear(10, 10)
    tensor = torch.zeros(100)
    plugin = Holder(
        a={"x": tensor, "again": tensor[3:7]}, b=[torch.zeros(5, dtype=torch.uint8)], c=nn.Linear(2, 1), d=model.weight
    )
    assert held_bytes(plugin, model) == Held(state=400 + 5 + 4 * 3, scratch=0)


class Quick(Holder):
    """Holds two tensors, one of which it could do without."""

    def __getstate__(self) -> dict:
        return {**vars(self), "scratch": None}


def test_scratch_is_what_does_not_pickle_and_other_plugins_are_not_counted():
    quick = Quick(kept=torch.zeros(10), scratch=torch.zeros(3))
    neighbour = Instruments()
    neighbour._total = torch.zeros(1000)
    holder = Holder(quick=quick, neighbour=neighbour)
    assert held_bytes(holder, nn.Linear(2, 2)) == Held(state=40, scratch=12)


PEAK = """
import torch
from study.run.instruments import peak_memory, reset_peak_memory
cpu = torch.device("cpu")
large = torch.ones(64 * 2**20 // 4)  # 64 MiB
before = peak_memory(cpu)
del large
reset_peak_memory(cpu)
after = peak_memory(cpu)
assert after <= before
more = torch.ones(128 * 2**20 // 4)
assert peak_memory(cpu) >= after + 100 * 2**20
"""


def test_the_peak_of_memory_is_that_since_the_reset():
    """In a process of its own, which has freed no memory that it could take again."""
    subprocess.run([sys.executable, "-c", PEAK], check=True)
