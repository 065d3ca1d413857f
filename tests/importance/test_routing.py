"""Models that treat samples unlike: experts that see some tokens, hooks on gradients, statistics over the batch."""

import re
import resource
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clreg_plugins import fisher_diagonal, mas_importance
from tests import oracles
from tests.importance import models


class Experts(nn.Module):
    """Each of a sample's tokens goes to one expert: an expert meets some samples never, some once, some twice."""

    def __init__(self, experts: int = 6, width: int = 4) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(experts))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        scores, chosen = self.gate(tokens).softmax(dim=1).max(dim=1)
        out = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            mine = (chosen == number).nonzero().flatten()
            if len(mine):
                out = out.index_copy(0, mine, expert(tokens[mine]).tanh() * scores[mine, None])
        return self.head(out.view(x.shape).sum(dim=1))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("measure", [lambda *a, **k: fisher_diagonal(*a, variant="empirical", **k), mas_importance])
def test_experts_that_meet_some_samples_twice(seed, measure):
    torch.manual_seed(seed)
    with oracles.default_dtype(torch.float64):
        model, x = Experts(), torch.randn(96, 3, 4)
    data = TensorDataset(x, torch.arange(96) % 3)
    oracles.assert_close(measure(model, data), measure(model, data, path="one_at_a_time"), 1e-10)


@pytest.mark.parametrize("later", [1, 4, 8])
def test_attention_that_all_samples_reach_at_first_and_some_later(later):
    """Four samples of four tokens are as many rows as eight of two: no such coincidence may pass for a sample a row."""
    torch.manual_seed(0)
    with oracles.default_dtype(torch.float64):
        model, x = models.routed_attention(), torch.randn(24, 4, 4)
    sign = torch.tensor([1.0] * 8 + ([1.0] * later + [-1.0] * (8 - later)) * 2)
    x[:, 0] = x[:, 0].abs() * sign[:, None]
    data = TensorDataset(x, torch.arange(24) % 3)
    fast = fisher_diagonal(model, data, batch_size=8)
    oracles.assert_close(fast, fisher_diagonal(model, data, path="one_at_a_time"), 1e-10)
    assert fast.paths["attention.in_proj_weight"] == ("rule" if later == 8 else "one_at_a_time")


def test_a_subclass_of_attention_that_uses_its_weights_in_another_way():
    torch.manual_seed(0)
    with oracles.default_dtype(torch.float64):
        model, x = models.attention_of_a_subclass(), torch.randn(24, 4, 4)
    x[::3, 2:] = 0
    data = TensorDataset(x, torch.arange(24) % 3)
    fast = fisher_diagonal(model, data, batch_size=8)
    oracles.assert_close(fast, fisher_diagonal(model, data, path="one_at_a_time"), 1e-10)
    assert fast.paths["attention.out_proj.weight"] == "one_at_a_time"


def test_linear_is_what_it_was_during_a_pass_and_after_it_whatever_happens():
    class CallsByKeyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)
            self.broken = False

        def forward(self, x):
            found, _ = self.attention(x, x, x)
            if self.broken:
                raise KeyError("broken")
            return nn.functional.linear(input=found.mean(1), weight=self.head.weight, bias=self.head.bias)

    original, model = nn.functional.linear, CallsByKeyword()
    data = TensorDataset(torch.randn(5, 3, 4), torch.arange(5) % 3)
    assert fisher_diagonal(model, data)["head.weight"].any()
    assert nn.functional.linear is original
    model.broken = True
    with pytest.raises(KeyError, match="broken"):
        fisher_diagonal(model, data)
    assert nn.functional.linear is original


def test_a_hook_on_a_gradient_means_the_same_on_every_path():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    mask = (torch.arange(5)[:, None] < 2).double()
    model[0].weight.register_hook(lambda gradient: gradient * mask)
    data = TensorDataset(torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % 3)
    fast = fisher_diagonal(model, data)
    oracles.assert_close(fast, fisher_diagonal(model, data, path="one_at_a_time"), 1e-10)
    assert not fast["0.weight"][2:].any(), "the hook freezes these rows"
    assert fast.paths["2.weight"] == "rule"


def test_statistics_over_the_batch_leave_no_sample_a_gradient_of_its_own():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(8, 3)
    )
    data = TensorDataset(torch.randn(6, 1, 4, 4), torch.arange(6) % 3)
    with pytest.raises(ValueError, match=r"'1' is a BatchNorm2d without running statistics.*batched"):
        fisher_diagonal(model, data)
    assert fisher_diagonal(model, data, variant="batched")["0.weight"].any()


@pytest.mark.parametrize("kind", ["complex", "lazy"])
def test_parameters_that_have_no_importance(kind):
    model = nn.Sequential(nn.LazyLinear(3)) if kind == "lazy" else nn.Linear(2, 3)
    if kind == "complex":
        model.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"parameter '(0.weight|phase)' is (not initialised|complex)"):
        fisher_diagonal(model, TensorDataset(torch.randn(4, 2), torch.arange(4) % 3))


@pytest.mark.parametrize("place", ["0.weight", "1.running_mean"])
def test_a_model_without_values_is_named(place):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, affine=False))
    model[int(place[0])].to("meta")
    with pytest.raises(ValueError, match=f"'{re.escape(place)}' is on the meta device and has no values"):
        fisher_diagonal(model, TensorDataset(torch.randn(4, 2), torch.arange(4) % 3))


def test_integer_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(2, 3))
    model.register_parameter("table", nn.Parameter(torch.arange(3), requires_grad=False))
    assert set(fisher_diagonal(model, TensorDataset(torch.randn(4, 2), torch.arange(4) % 3))) == {"0.weight", "0.bias"}


WIDE_OUTPUT = """
import resource, torch
from torch import nn
from torch.utils.data import TensorDataset
from clreg_plugins import fisher_diagonal
torch.set_num_threads(1)
convolution = nn.Conv2d(3, 64, 3, padding=1)
model = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 50))
data = TensorDataset(torch.randn(64, 3, 32, 32), torch.arange(64) % 50)
fisher_diagonal(model, torch.utils.data.Subset(data, [0, 1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fisher_diagonal(model, data, max_bytes=2**26)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_is_bounded_by_what_layers_put_out():
    """64 channels out of 3, under 50 cotangents: gradients at the outputs are what could fill the memory."""
    assert resource.getrusage(resource.RUSAGE_SELF)  # this platform can tell
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WIDE_OUTPUT], capture_output=True, text=True, check=True
    )
    grown = int(done.stdout) * 1024
    assert grown < 2 * 2**26, f"grew by {grown / 2**20:.0f} MiB under a bound of 64 MiB"
