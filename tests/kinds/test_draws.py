"""A forward pass that draws in eval mode too: cotangents and gradients come from one and the same pass.

Each model has logits (d w, 0) with w = 5 and a random d of its own for each sample, so that the Fisher of w is
E[p(1−p) d²] with p = σ(d w). Two passes that draw each for itself give E[p(1−p)] E[d²]: thousands of times as much.
"""

import random
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clreg_plugins import EWCPlugin, fisher_diagonal, mas_importance
from tests.kinds.comparison import strategy_of, stream

N = 120
ONES = torch.ones(N, 1)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def p_of(logit: float) -> float:
    return float(torch.tensor(logit, dtype=torch.float64).sigmoid())


def curvature(logit: float) -> float:
    return p_of(logit) * (1 - p_of(logit))


FISHER, MAS = 2 * curvature(10.0), 20.0  # d = 0 or 2 by halves: ½ · 4 · p(1−p), and E[2 d² w]


class Draws(nn.Module):
    """d = 0 or 2 with equal chances, by ``draw``."""

    def __init__(self, draw: Callable[[nn.Module, Tensor], Tensor], rule: bool = False):
        super().__init__()
        self.draw, self.rule = draw, rule
        self.generator = torch.Generator().manual_seed(1)
        self.numpy = np.random.default_rng(1)
        self.python = random.Random(1)
        self.register_buffer("logits", torch.zeros(2))
        if rule:
            self.layer = nn.Linear(1, 1, bias=False)
            self.layer.weight.data.fill_(5.0)
        else:
            self.w = nn.Parameter(torch.tensor(5.0))

    def forward(self, x):
        d = self.draw(self, x).to(x)
        z = self.layer(d) if self.rule else d * self.w
        return torch.cat([z, torch.zeros_like(z)], 1)


def column(values: Tensor) -> Tensor:
    return 2.0 * values.view(-1, 1)


DRAWS = {
    "dropout left on": lambda m, x: F.dropout(x, 0.5, training=True),
    "dropout of whole channels": lambda m, x: F.dropout1d(x[..., None], 0.5, training=True)[..., 0],
    "rand": lambda m, x: 2.0 * (torch.rand(len(x), 1) < 0.5),
    "bernoulli": lambda m, x: 2 * torch.bernoulli(torch.full_like(x, 0.5)),
    "gumbel-softmax": lambda m, x: 2 * F.gumbel_softmax(m.logits.expand(len(x), 2), hard=True)[:, :1].detach(),
    "a distribution": lambda m, x: 2 * torch.distributions.Bernoulli(0.5).sample((len(x), 1)),
    "a permutation": lambda m, x: 2.0 * (torch.randperm(2 * len(x))[: len(x), None] % 2),
    "an own generator": lambda m, x: 2.0 * (torch.rand(len(x), 1, generator=m.generator) < 0.5),
    "numpy's global generator": lambda m, x: column(torch.from_numpy(np.random.rand(len(x)) < 0.5)),
    "an own numpy generator": lambda m, x: column(torch.from_numpy(m.numpy.random(len(x)) < 0.5)),
    "Python's random": lambda m, x: column(torch.tensor([float(random.random() < 0.5) for _ in range(len(x))])),
    "an own random.Random": lambda m, x: column(torch.tensor([float(m.python.random() < 0.5) for _ in range(len(x))])),
}


RNG = np.random.default_rng(5)
UNSEEN = {
    "a new generator": lambda m, x: column(torch.from_numpy(np.random.default_rng().random(len(x)) < 0.5)),
    "a new generator of torch": lambda m, x: 2.0 * (torch.rand(len(x), 1, generator=new_generator()) < 0.5),
    "a generator of the file's": lambda m, x: column(torch.from_numpy(RNG.random(len(x)) < 0.5)),
    "the clock": lambda m, x: column(torch.tensor([float(time.perf_counter_ns() // 100 % 2) for _ in x])),
}


def new_generator() -> torch.Generator:
    generator = torch.Generator()
    generator.seed()
    return generator


def states(model: nn.Module) -> dict[str, object]:
    return {
        "torch's": torch.get_rng_state().tolist(),
        "numpy's": [np.random.get_state()[1].tolist(), np.random.get_state()[2]],
        "Python's": random.getstate(),
        "the model's of torch": model.generator.get_state().tolist(),
        "the model's of numpy": model.numpy.bit_generator.state,
        "the model's of Python": model.python.getstate(),
    }


def close(got: float, want: float, share: float = 0.4) -> None:
    assert abs(got - want) <= share * want, f"{got:.4g}, not {want:.4g}"


@pytest.mark.parametrize("rule", [False, True], ids=["bare parameter", "layer with a rule"])
@pytest.mark.parametrize("how", DRAWS)
def test_the_fisher_of_a_model_that_draws(how, rule):
    """Right, and a second pass meets the same numbers, since every generator is where it was."""
    model = Draws(DRAWS[how], rule)
    before = states(model)
    got = fisher_diagonal(model, TensorDataset(ONES))
    moved = [name for name, state in states(model).items() if state != before[name]]
    assert not moved, f"these generators have moved: {moved}"
    close(float(got["layer.weight" if rule else "w"]), FISHER)
    again = fisher_diagonal(model, TensorDataset(ONES))
    assert all(torch.equal(value, again[name]) for name, value in got.items())


@pytest.mark.parametrize("path", ["auto", "vectorised", "one_at_a_time"])
@pytest.mark.parametrize("rule", [False, True], ids=["bare parameter", "layer with a rule"])
@pytest.mark.parametrize("how", UNSEEN)
def test_draws_that_leave_no_trace(how, rule, path):
    """No generator that could be looked at has moved: right all the same, or refused."""
    try:
        got = fisher_diagonal(Draws(UNSEEN[how], rule), TensorDataset(ONES), path=path)
    except ValueError:
        return
    found = float(got["layer.weight" if rule else "w"])
    assert found < 3 * FISHER, f"{found:.3g}; two passes would give 0.25, one {FISHER:.3g}"


@pytest.mark.parametrize("rule", [False, True], ids=["bare parameter", "layer with a rule"])
@pytest.mark.parametrize("how", ["dropout left on", "an own generator", "numpy's global generator"])
def test_mas_of_a_model_that_draws(how, rule):
    got = mas_importance(Draws(DRAWS[how], rule), TensorDataset(ONES))
    close(float(got["layer.weight" if rule else "w"]), MAS)


@pytest.mark.parametrize("variant", ["sample", "predicted", "empirical"])
def test_every_variant_of_a_model_that_draws(variant):
    """With the label 0: (1 − p)² d². The likeliest label is 0 too. A drawn one gives p(1−p) d², once in 44,000."""
    model, labels = Draws(DRAWS["dropout left on"]), torch.zeros(N).long()
    got = float(fisher_diagonal(model, TensorDataset(ONES, labels), variant=variant)["w"])
    if variant == "sample":  # with chance 0.5%, a label 1 is drawn, which gives 4/120
        assert got < 0.02, f"{got:.3g}; two passes would give 0.25"
    else:
        close(got, 2 * (1 - p_of(10.0)) ** 2)


@pytest.mark.parametrize("path", ["vectorised", "one_at_a_time"])
def test_the_general_path_of_a_model_that_draws(path):
    """Right, or an error that says why not."""
    model = Draws(DRAWS["dropout left on"])
    try:
        got = fisher_diagonal(model, TensorDataset(ONES), path=path)
    except ValueError as error:
        if "draw" not in str(error) and "random" not in str(error) and "vmap" not in str(error):
            raise AssertionError(f"it does not say that the model draws: {error}") from error
    else:
        close(float(got["w"]), FISHER)


@pytest.mark.parametrize("batch_size", [None, 100])
def test_a_model_that_draws_for_later_samples_only(batch_size):
    """The first half of the data meets no draw: d = 1 without, else 0 or 2."""

    def draw(model, x):
        return torch.where(x > 1.5, F.dropout(x / 2, 0.5, training=True), torch.zeros_like(x) + 1.0)

    x = torch.cat([ONES, 2 * ONES])
    got = fisher_diagonal(Draws(draw), TensorDataset(x), batch_size=batch_size)
    close(float(got["w"]), (curvature(5.0) + FISHER) / 2, 0.15)
    only_late = fisher_diagonal(Draws(lambda m, v: draw(m, v) * (v > 1.5)), TensorDataset(x), batch_size=batch_size)
    close(float(only_late["w"]), FISHER / 2)


SEEN: list[float] = []


class Bayesian(nn.Module):
    """One weight drawn a forward pass from N(μ, σ²); what it drew is noted outside of the model."""

    def __init__(self):
        super().__init__()
        self.mu, self.sigma = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        noise = torch.randn(())
        SEEN.append(float(noise))
        z = x * (self.mu + self.sigma * noise)
        return torch.cat([z, torch.zeros_like(z)], 1)


@pytest.mark.parametrize("path", ["auto", "one_at_a_time"])
def test_weights_that_are_drawn_once_a_pass(path):
    """Of one sample, the Fisher is that of one of the passes: p(1−p) and ε² p(1−p) with one and the same ε."""
    for seed in range(5):
        torch.manual_seed(seed)
        SEEN.clear()
        got = fisher_diagonal(Bayesian(), TensorDataset(torch.ones(1, 1)), path=path)
        found = float(got["mu"]), float(got["sigma"])
        by_pass = [(curvature(0.5 + 3 * e), e**2 * curvature(0.5 + 3 * e)) for e in SEEN]
        assert any(
            abs(found[0] - mu) <= 1e-4 * mu + 1e-12 and abs(found[1] - sigma) <= 1e-4 * sigma + 1e-12
            for mu, sigma in by_pass
        ), f"μ {found[0]:.4g} and σ {found[1]:.4g} are those of none of the passes {by_pass}"


class LocalNoise(Bayesian):
    """A weight for each sample."""

    def forward(self, x):
        z = x * (self.mu + self.sigma * torch.randn_like(x))
        return torch.cat([z, torch.zeros_like(z)], 1)


def test_weights_that_are_drawn_for_each_sample():
    noise = torch.randn(1_000_000, dtype=torch.float64)
    p = (0.5 + 3 * noise).sigmoid()
    got = fisher_diagonal(LocalNoise(), TensorDataset(torch.ones(300, 1)))
    close(float(got["mu"]), float((p * (1 - p)).mean()), 0.25)
    close(float(got["sigma"]), float((p * (1 - p) * noise**2).mean()), 0.4)


def test_a_small_bound_on_memory_changes_nothing_in_expectation():
    got = fisher_diagonal(Draws(DRAWS["dropout left on"], rule=True), TensorDataset(ONES), max_bytes=2**12)
    close(float(got["layer.weight"]), FISHER)


def test_ewc_on_a_model_that_draws():
    """Dropout that is left on by hand, as Monte-Carlo dropout has it; one pass a piece."""

    class MonteCarlo(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3, bias=False)

        def forward(self, x):
            return self.layer(F.dropout(x, 0.5, training=True))

    torch.manual_seed(0)
    model, plugin = MonteCarlo(), EWCPlugin(1.0)
    benchmark, samples = stream(300)
    strategy_of(model, [plugin], lr=0.001).train(benchmark.train_stream[0])
    x = F.dropout(samples[0][0].double().repeat(200, 1), 0.5)
    p = (x @ model.layer.weight.detach().double().T).softmax(1)
    want = (p * (1 - p)).T @ x**2 / len(x)
    off = float(((plugin.importance["layer.weight"] - want).abs() / want).max())
    assert off < 0.35, f"off by {off:.0%}"
