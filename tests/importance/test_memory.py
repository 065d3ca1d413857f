"""The bound on memory holds where per-sample gradients would not fit; passes leave nothing behind and reuse memory.

Memory is measured in a process of its own.
"""

import gc
import platform
import subprocess
import sys
from collections import Counter
from itertools import product

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from clreg_plugins.importance import fisher_diagonal, kronecker_factors, mas_importance
from clreg_plugins.importance.engine.cotangents import VARIANTS

PROGRAM = """
import resource, sys, time
import torch
from torch import nn
from torch.utils.data import TensorDataset
from clreg_plugins.importance import fisher_diagonal

torch.set_num_threads(1)
torch.manual_seed(0)
n, width, max_bytes = (int(word) for word in sys.argv[1:])


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Identity() if stride == 1 and inputs == outputs else nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x):
        return torch.relu_(self.body(x) + self.shortcut(x))


widths = [width, width, 2 * width, 4 * width, 8 * width]
blocks = [
    Block(widths[i] if j == 0 else widths[i + 1], widths[i + 1], 2 if i and j == 0 else 1)
    for i in range(4) for j in range(2)
]
model = nn.Sequential(
    nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True), *blocks,
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, 10),
)
data = TensorDataset(torch.randn(n, 3, 32, 32), torch.arange(n) % 10)
model.eval()(torch.randn(2, 3, 32, 32)).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.time()
got = fisher_diagonal(model, data, max_bytes=max_bytes)
assert set(got.paths.values()) == {"rule"}, got.paths
assert all(value.any() for value in got.values())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(before * 1024, peak * 1024, time.time() - start, sum(p.numel() for p in model.parameters()))
"""


def measure(n: int, width: int, max_bytes: int) -> tuple[float, float, float, float]:
    words = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(n), str(width), str(max_bytes)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(float(word) for word in done.stdout.split())


@pytest.mark.slow
def test_exact_fisher_of_resnet18_stays_under_4_gib():
    _, peak, seconds, parameters = measure(n=32, width=64, max_bytes=2**30)
    assert parameters > 11e6
    assert peak < 4 * 2**30, f"peak {peak / 2**30:.2f} GiB after {seconds:.0f} s"


def test_the_pass_keeps_to_its_bound():
    """On top of what training itself took, the bound and the result (the size of the model)."""
    max_bytes = 2**27
    before, peak, seconds, parameters = measure(n=16, width=16, max_bytes=max_bytes)
    extra = peak - before - 4 * parameters
    assert extra < 1.5 * max_bytes, f"{extra / 2**20:.0f} MiB under a bound of 128 MiB ({seconds:.1f} s)"


PASSES = """
import resource
import torch
from torch import nn
from torch.utils.data import TensorDataset
from clreg_plugins.importance import fisher_diagonal

torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10))
data = TensorDataset(torch.randn(2048, 784))
for _ in range(3):
    fisher_diagonal(model, data)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    fisher_diagonal(model, data)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what the C library keeps is glibc's affair")
def test_a_pass_works_in_the_memory_of_the_one_before():
    """Four passes, each of which takes some 9,000 pages of fresh memory where all is given back in between."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PASSES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fetched = int(done.stdout)
    assert fetched < 16000, f"{fetched} new pages fetched"


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
def test_the_random_numbers_of_many_draws_keep_to_the_bound(likelihood, monkeypatch):
    largest, rand = 0, torch.rand

    def counted(*args, **kwargs):
        nonlocal largest
        numbers = rand(*args, **kwargs)
        largest = max(largest, numbers.nbytes)
        return numbers

    monkeypatch.setattr(torch, "rand", counted)
    data = TensorDataset(torch.randn(64, 4))
    fisher_diagonal(
        nn.Linear(4, 2), data, variant="sample", draws=1000, likelihood=likelihood, batch_size=64, max_bytes=2**18
    )
    assert 0 < largest < 2**18, f"{largest} bytes under a bound of {2**18}"


def living() -> Counter[tuple[int, ...]]:
    """The shapes of all tensors there are."""
    gc.collect()
    return Counter(tuple(thing.shape) for thing in gc.get_objects() if type(thing) is torch.Tensor)


@pytest.mark.parametrize(
    ("path", "variant"),
    [("auto", "factors"), *product(["auto", "vectorised", "one_at_a_time"], [*VARIANTS, "mas"])],
)
def test_a_pass_leaves_nothing_behind(variant, path):
    """An output that autograd keeps for its own node, as that of a sigmoid, is easily held for ever."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 5), nn.Sigmoid(), nn.Linear(5, 4))
    data = TensorDataset(torch.randn(12, 1, 8, 8), torch.arange(12) % 4)

    def importance():
        if variant == "mas":
            return mas_importance(model, data, path=path)
        if variant == "factors":
            return kronecker_factors(model, data)
        return fisher_diagonal(model, data, variant=variant, path=path)

    importance()
    before = living()
    for _ in range(3):
        importance()
    assert living() == before
