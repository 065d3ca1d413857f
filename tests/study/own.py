"""A file of the user's own, as a protocol names it, and a protocol that does."""

CODE = '''
import os
import random

import numpy as np
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
from avalanche.core import SupervisedPlugin
from torch import nn
from torch.utils.data import TensorDataset

if "FORBIDDEN" in os.environ:
    raise RuntimeError("imported")


class Noise(SupervisedPlugin):
    """Adds noise to the loss, from every generator that a method may draw from."""

    def __init__(self, reg_lambda, size=1.0, seed=None):
        super().__init__()
        self.scale = reg_lambda * size
        self.seed = seed
        self.drawn = torch.zeros(3)

    def before_backward(self, strategy, **kwargs):
        self.drawn = torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))])
        strategy.loss += self.scale * self.drawn.sum() * sum(p.square().sum() for p in strategy.model.parameters())


class Unpicklable(SupervisedPlugin):
    def __init__(self):
        super().__init__()
        self.function = lambda: 0


class Network(nn.Sequential):
    def __init__(self, width, n_classes):
        super().__init__(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, n_classes))


def one_output():
    return nn.Linear(4, 1)


def stream(experiences, samples, generator, offset=0, augmented=False):
    made = []
    for t in range(experiences):
        y = torch.arange(samples) % 2
        x = torch.randn(samples, 4, generator=generator)
        x[:, t] += 3 * y
        y += offset + 2 * t
        data = Augmented(x, y) if augmented else TensorDataset(x, y)
        made.append(AvalancheDataset([data], data_attributes=[DataAttribute(y.tolist(), "targets")]))
    return made


class Augmented(TensorDataset):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + torch.randn(4), y


def clouds(samples, seed, experiences=3, offset=0, tests=None, augmented=False):
    generator = torch.Generator().manual_seed(seed)
    return benchmark_from_datasets(
        train=stream(experiences, samples, generator, offset, augmented),
        test=stream(tests or experiences, 20, generator, offset),
    )
'''

PROTOCOL = """
title = "Mine"
scenarios = ["class"]
seeds = 2

[benchmark]
kind = "./mine.py:clouds"
samples = 40

[model]
kind = "./mine.py:Network"
width = 8

[training]
epochs = 1
batch_size = 8
optimizer = "sgd"
learning_rate = 0.1

[methods]
none = { kind = "naive" }
noise = { kind = "./mine.py:Noise", size = 0.01 }

[strength]
noise.class = 1

[tuning]
seeds = [7]
validation_fraction = 0.25

[tuning.grid]
noise = { strength = [1, 2], size = [0.01, 0.1] }
"""
