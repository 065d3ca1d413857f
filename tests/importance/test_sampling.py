"""What is drawn: labels and samples, all of it from the seed and none of it from the global generators."""

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from clreg_plugins.importance import fisher_diagonal, mas_importance
from clreg_plugins.importance.engine.cotangents import draws_and_targets, fisher_cotangents
from clreg_plugins.importance.engine.data import batches
from tests import oracles
from tests.importance.cases import CASES


def classifier(n: int = 8):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    return model, TensorDataset(torch.randn(n, 3).double(), torch.arange(n) % 3)


@pytest.mark.parametrize("likelihood", ["categorical", "gaussian", "bernoulli"])
def test_the_mean_of_many_draws_is_the_exact_fisher(likelihood):
    """Within 4 standard errors, entry by entry, and no closer than chance allows over all entries."""
    model, data = classifier()
    exact = fisher_diagonal(model, data, variant="exact", likelihood=likelihood)
    runs = [
        fisher_diagonal(model, data, variant="sample", likelihood=likelihood, draws=10, seed=1000 * run)
        for run in range(200)
    ]
    scores = []
    for name, expected in exact.items():
        draws = torch.stack([run[name] for run in runs])
        error = draws.std(dim=0) / len(runs) ** 0.5
        z = (draws.mean(dim=0) - expected) / error
        assert z.abs().max() < 4, f"{likelihood} {name}: {z.abs().max():.2f} standard errors from the exact Fisher"
        scores.append(z.flatten())
    spread = torch.cat(scores).square().mean().sqrt().item()
    assert 0.4 < spread < 2.0, f"deviations are {spread:.2f} standard errors on average, expected about 1"


def test_draws_average_independent_labels():
    """The variance of S draws is that of one, over S."""
    model, data = classifier()

    def variance(draws: int) -> float:
        runs = [fisher_diagonal(model, data, variant="sample", draws=draws, seed=50 * s)["2.bias"] for s in range(150)]
        return torch.stack(runs).var(dim=0).sum().item()

    ratio = variance(1) / variance(8)
    assert 5 < ratio < 12.5, f"one draw has {ratio:.2f} times the variance of eight, expected 8"


def of_draws(likelihood: str, z: Tensor, draws: int, monkeypatch, together: bool, targets=None) -> list[Tensor]:
    """The cotangents of ``draws`` labels, put together or one for each label."""
    monkeypatch.setattr(draws_and_targets, "FEW_OUTPUTS", 32 if together else 0)
    found = fisher_cotangents("sample", likelihood, draws).vectors(z, targets, Generator().manual_seed(0))
    return [v.reshape(len(v), -1).double() for v in found]


@pytest.mark.parametrize(
    ("likelihood", "shape", "number"),
    [
        ("categorical", (6, 2), 2),
        ("categorical", (6, 5), 5),
        ("categorical", (6, 3, 2), 6),
        ("bernoulli", (6,), 1),
        ("bernoulli", (6, 3), 3),
        ("gaussian", (6, 2, 2), 4),
    ],
)
def test_more_draws_than_outputs_take_as_many_backward_passes_as_outputs(likelihood, shape, number, monkeypatch):
    z = 3 * torch.randn(shape, dtype=torch.float64)
    for draws in (number + 1, 50):
        together, each = (of_draws(likelihood, z, draws, monkeypatch, way) for way in (True, False))
        assert (len(together), len(each)) == (number, draws)
        products = [torch.einsum("kni,knj->nij", v, v) for v in map(torch.stack, (together, each))]
        torch.testing.assert_close(*products, rtol=1e-12, atol=1e-14)
    assert len(of_draws(likelihood, z, number, monkeypatch, together=True)) == number


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_draws_of_half_precision_outputs_are_put_together_in_single_precision(likelihood, monkeypatch):
    z = torch.randn(6, 3).bfloat16()
    together, each = (torch.stack(of_draws(likelihood, z, 50, monkeypatch, way)) for way in (True, False))
    assert len(together) == 3
    torch.testing.assert_close((together**2).sum(dim=0), (each**2).sum(dim=0), rtol=2e-2, atol=0)


def test_draws_put_together_are_as_accurate_for_a_rare_label_as_for_a_likely_one(monkeypatch):
    """In float32, where the score of the last class is 1e-6 of the others', and the second is masked."""
    z = torch.tensor([[0.0, -1000.0, 0.5, 1.0, -14.0]]).expand(200, 5)
    together, each = (torch.stack(of_draws("categorical", z, 40, monkeypatch, way)) for way in (True, False))
    assert len(together) == 4
    assert not together[:, :, 1].any()
    torch.testing.assert_close((together**2).sum(dim=0), (each**2).sum(dim=0), rtol=2e-6, atol=0)


def test_masked_positions_stay_without_a_score_where_draws_are_put_together(monkeypatch):
    z, targets = torch.randn(4, 2, 3), torch.tensor([[0, 1, -100]] * 3 + [[-100] * 3])
    found = of_draws("categorical", z, 20, monkeypatch, together=True, targets=targets)
    assert len(found) == 6
    for v in found:
        assert not v.view(4, 2, 3)[:, :, 2].any()
        assert not v[3].any()


def test_masked_classes_are_never_drawn():
    """A label of probability 0 would give a score of −1000 logits."""
    case = CASES["incremental"]
    model, samples = case.model().double(), case.samples()
    data = TensorDataset(samples[0].double(), samples[1])
    for seed in range(20):
        got = fisher_diagonal(model, data, variant="sample", draws=5, seed=seed)
        assert got["2.classifier.bias"][2] == 0, "the masked class 2 was drawn"


@pytest.mark.parametrize("variant", ["sample", "exact"])
def test_the_seed_decides(variant):
    model, data = classifier(40)
    options = {"variant": variant, "n_samples": 15}
    first = fisher_diagonal(model, data, seed=1, **options)
    torch.rand(3)
    again, other = (
        fisher_diagonal(model, data, seed=1, **options),
        fisher_diagonal(model, data, seed=2, **options),
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_global_generators_are_left_alone():
    import random

    import numpy

    model, data = classifier(40)
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].copy()
    fisher_diagonal(model, data, variant="sample", n_samples=15)
    mas_importance(model, data, n_samples=15)
    assert torch.equal(before[0], torch.get_rng_state()), "torch's generator moved"
    assert before[1] == random.getstate(), "Python's generator moved"
    assert (before[2] == numpy.random.get_state()[1]).all(), "numpy's generator moved"


def test_n_samples_of_a_dataset_are_distinct_and_drawn_from_all_of_it():
    """Each sample feeds an input of its own, so the importance of the weight says which were used."""
    model = nn.Linear(30, 2).double()
    data = TensorDataset(torch.eye(30).double(), torch.zeros(30).long())
    used = torch.zeros(30)
    for seed in range(10):
        counts = (fisher_diagonal(model, data, n_samples=12, seed=seed)["weight"] > 0).any(dim=0)
        assert counts.sum() == 12, f"{int(counts.sum())} distinct samples, expected 12"
        used += counts
    assert (used > 0).sum() > 25, "always the same samples"


@pytest.mark.parametrize("n_samples", [3, 4, 5, 8, 100])
def test_n_samples_of_a_loader_are_its_first(n_samples):
    model, data = classifier(8)
    got = fisher_diagonal(model, DataLoader(data, batch_size=4), n_samples=n_samples, variant="empirical")
    samples = tuple(tensor[:n_samples] for tensor in data.tensors)
    expected = oracles.fisher(model, samples, variant="empirical", likelihood="categorical")
    oracles.assert_close(got, expected, 1e-10)


@pytest.mark.parametrize("case", ["mlp", "resnet", "transformer", "embedding", "gru", "conv1d"])
@pytest.mark.parametrize("estimator", ["exact", "sample", "vector"])
def test_the_memory_bound_changes_no_number(case, estimator):
    """One byte means one sample at a time; the labels drawn are the same."""
    model, samples = CASES[case].model().double(), CASES[case].samples()
    data = TensorDataset(*(part.double() if part.is_floating_point() else part for part in samples))

    def measure(max_bytes: int):
        if estimator == "vector":
            return mas_importance(model, data, output="vector", max_bytes=max_bytes)
        return fisher_diagonal(model, data, variant=estimator, draws=2, max_bytes=max_bytes)

    large = measure(2**40)
    for max_bytes in (1, 3000, 20_000, 2**20):
        oracles.assert_close(measure(max_bytes), dict(large), 1e-10, f"max_bytes={max_bytes}")


def test_batch_size_changes_no_number_but_of_batch_means():
    model, data = classifier(10)
    for estimate in (
        lambda size: fisher_diagonal(model, data, batch_size=size),
        lambda size: mas_importance(model, data, batch_size=size),
    ):
        oracles.assert_close(estimate(3), dict(estimate(10)), 1e-10)
    means = [fisher_diagonal(model, data, variant="batched", batch_size=size)["0.weight"] for size in (2, 10)]
    assert not torch.allclose(*means)


class Sizes(Dataset):
    """Samples of so many floats each, with no storage of their own."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(()).expand(self.sizes[row]), row


def read(data, **options) -> list[torch.Tensor]:
    """The targets of each batch."""
    settings = {"batch_size": None, "batches_matter": False, "n_samples": None, "num_workers": 0}
    settings |= {"generator": torch.Generator(), **options}
    return [batch.targets for batch in batches(data, **settings)]


@pytest.mark.parametrize(
    ("floats", "lengths"),
    [(1, [1024, 676]), (2**13, [1024, 676]), (2**14, [512, 512, 512, 164]), (2**15, [256] * 6 + [164])],
)
def test_batches_are_put_together_up_to_1024_samples_and_32_mib(floats, lengths):
    together = read(Sizes(*[floats] * 1700))
    assert [len(targets) for targets in together] == lengths
    assert torch.equal(torch.cat(together), torch.arange(1700))


def test_batches_of_other_shapes_stay_apart():
    assert [len(targets) for targets in read(Sizes(*[1] * 512, *[2] * 512, *[1] * 30))] == [512, 512, 30]


@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ({"batch_size": 256}, [256, 256, 88]),
        ({"batch_size": 256, "n_samples": 300}, [256, 44]),
        ({"batches_matter": True}, [256, 256, 88]),
    ],
    ids=["a size is given", "of some samples", "batches matter"],
)
def test_batches_are_put_together_only_where_nothing_says_otherwise(options, lengths):
    assert [len(targets) for targets in read(Sizes(*[1] * 600), **options)] == lengths


def test_a_loader_keeps_its_batches():
    assert [len(targets) for targets in read(DataLoader(Sizes(*[1] * 6), batch_size=2))] == [2, 2, 2]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_dataset_is_asked_for_each_sample_once(num_workers):
    class Once(Sizes):
        def __getitem__(self, row: int):
            assert row not in self.__dict__, "asked for again"
            self.__dict__[row] = torch.utils.data.get_worker_info() is not None
            assert self.__dict__[row] == bool(num_workers), "asked for outside the worker"
            return super().__getitem__(row)

    assert sum(map(len, read(Once(*[1] * 300), num_workers=num_workers))) == 300


@pytest.mark.parametrize(
    ("variant", "distributed", "longest"),
    [
        ("exact", False, 600),
        ("predicted", False, 600),
        ("empirical", False, 600),
        ("sample", False, 600),
        ("batched", False, 256),
        ("exact", True, 256),
    ],
)
def test_batches_are_put_together_where_they_make_no_difference(variant, distributed, longest, monkeypatch):
    lengths = []

    def noting(*args, **options):
        for batch in batches(*args, **options):
            lengths.append(len(batch.inputs))
            yield batch

    monkeypatch.setattr("clreg_plugins.importance.engine.run.batches", noting)
    monkeypatch.setattr("clreg_plugins.importance.engine.run.processes", lambda distributed: ((0, 1), None))
    fisher_diagonal(*classifier(600), variant=variant, distributed=distributed)
    assert max(lengths) == longest


@pytest.mark.parametrize(
    "measure",
    [
        lambda model, data, size: fisher_diagonal(model, data, variant="batched", batch_size=size),
        lambda model, data, size: mas_importance(model, data, per_sample=False, batch_size=size),
    ],
    ids=["Fisher", "MAS"],
)
def test_batch_means_are_of_256_samples_by_default(measure):
    model, data = classifier(600)
    default, same, other = (measure(model, data, size)["0.weight"] for size in (None, 256, 1024))
    assert torch.equal(default, same)
    assert not torch.allclose(default, other)
