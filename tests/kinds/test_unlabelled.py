"""Samples whose target is ``ignore_index`` were not trained on, so they do not count."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from clreg_plugins import EWCPlugin, OnlineEWCPlugin, fisher_diagonal, mas_importance
from tests.kinds.comparison import assert_right, expected, measure, mlp, strategy_of, stream

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(2))
PATTERNS = {
    "every fourth": torch.arange(24) % 4 == 3,
    "the first batch": torch.arange(24) < 8,
    "all but one": torch.arange(24) != 13,
    "the last batch but one sample": (torch.arange(24) >= 16) & (torch.arange(24) != 20),
}


def labelled(pattern: str, ignored: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels, and which samples count."""
    y = torch.arange(24) % 3
    return torch.where(PATTERNS[pattern], ignored, y), ~PATTERNS[pattern]


WAYS = [(-100, "auto"), (-100, "vectorised"), (-100, "one_at_a_time"), (255, "auto")]


@pytest.mark.parametrize(("ignored", "path"), WAYS)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("variant", ["exact", "predicted", "empirical"])
def test_samples_without_a_label_do_not_count(variant, pattern, ignored, path):
    y, counts = labelled(pattern, ignored)
    options = {} if ignored == -100 else {"ignore_index": ignored}
    got = fisher_diagonal(mlp(), TensorDataset(X, y), variant=variant, path=path, batch_size=8, **options)
    assert_right(got, expected(mlp(), X[counts], variant, y[counts]))


@pytest.mark.parametrize("variant", ["exact", "empirical"])
def test_a_class_that_is_ignored(variant):
    """One of the model's own classes, as "background" is in segmentation."""
    y = torch.arange(24) % 3
    got = fisher_diagonal(mlp(), TensorDataset(X, y), variant=variant, ignore_index=1)
    assert_right(got, expected(mlp(), X[y != 1], variant, y[y != 1]))


@pytest.mark.parametrize("variant", ["exact", "sample", "predicted", "empirical", "batched"])
def test_what_is_in_an_unlabelled_sample_plays_no_part(variant):
    """However large; a sample's draws do not depend on it either."""
    y, counts = labelled("every fourth", -100)
    huge = torch.where(counts[:, None], X, 1e6)
    found = [
        fisher_diagonal(mlp(), TensorDataset(x, y), variant=variant, batch_size=8, draws=2, seed=4) for x in (X, huge)
    ]
    assert_right(found[0], found[1], 1e-6)


def test_the_gradient_of_a_batch_mean_over_the_labelled():
    """As ``cross_entropy`` means: over those that count. A batch without any counts for none."""
    y, _ = labelled("the first batch", -100)
    y[9] = -100
    model = mlp()
    want = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for rows in (slice(8, 16), slice(16, 24)):
        loss = F.cross_entropy(model(X[rows]), y[rows])
        for name, g in zip(want, torch.autograd.grad(loss, list(model.parameters())), strict=True):
            want[name] += g**2 / 2
    assert_right(fisher_diagonal(model, TensorDataset(X, y), variant="batched", batch_size=8), want)


def test_the_expectation_over_drawn_labels():
    y, counts = labelled("every fourth", -100)
    got = fisher_diagonal(mlp(), TensorDataset(X, y), variant="sample", draws=1000)
    assert_right(got, expected(mlp(), X[counts]), 0.2)


@pytest.mark.parametrize("variant", ["exact", "sample", "predicted", "empirical", "batched"])
def test_data_without_any_label_that_counts_is_an_error(variant):
    with pytest.raises(ValueError, match=r"ignore_index|-100"):
        fisher_diagonal(mlp(), TensorDataset(X, torch.full((24,), -100)), variant=variant)


@pytest.mark.parametrize("bad", [-1, 3, -99])
def test_a_label_that_is_neither_a_class_nor_ignored_is_an_error(bad):
    """For "exact" too: a label that stands for "unknown" by another number would count."""
    y = torch.arange(24) % 3
    y[17] = bad
    with pytest.raises(ValueError, match=f"{bad}"):
        fisher_diagonal(mlp(), TensorDataset(X, y), variant="empirical")


def test_mas_counts_every_sample():
    y, _ = labelled("every fourth", -100)
    assert_right(mas_importance(mlp(), TensorDataset(X, y)), expected(mlp(), X, "mas"))


def test_a_number_of_samples_of_which_some_are_unlabelled():
    """They are drawn from all, and those that count among them are measured."""
    y, counts = labelled("every fourth", -100)
    got = fisher_diagonal(mlp(), TensorDataset(X, y), n_samples=10, seed=5)
    chosen = torch.randperm(24, generator=torch.Generator().manual_seed(5))[:10]
    assert_right(got, expected(mlp(), X[chosen][counts[chosen]]))


# ------------------------------------------------------------------- in strategies

CRITERIA = {
    "-100 by default": (nn.CrossEntropyLoss(), -100),
    "-100": (nn.CrossEntropyLoss(ignore_index=-100), -100),
    "255": (nn.CrossEntropyLoss(ignore_index=255), 255),
    "a class": (nn.CrossEntropyLoss(ignore_index=1), 1),
    "the function": (F.cross_entropy, -100),
}


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("variant", ["exact", "predicted", "empirical"])
@pytest.mark.parametrize("kind", [EWCPlugin, OnlineEWCPlugin])
def test_what_the_criterion_ignores_does_not_count(kind, variant, criterion):
    function, ignored = CRITERIA[criterion]
    benchmark, samples = stream(labels=lambda y: torch.where(torch.arange(len(y)) % 4 == 3, ignored, y))
    model, plugin = mlp(), kind(1.0, fisher=variant)
    strategy = strategy_of(model, [plugin], criterion=function)
    strategy.train(benchmark.train_stream[0])
    x, y = samples[0]
    counts = y != ignored
    assert_right(plugin.importance, expected(model, x[counts], variant, y[counts]))
    strategy.train(benchmark.train_stream[1])


def test_negative_log_likelihood_of_a_log_softmax():
    benchmark, samples = stream(labels=lambda y: torch.where(torch.arange(len(y)) % 4 == 3, 7, y))
    model, plugin = nn.Sequential(*mlp(), nn.LogSoftmax(1)), EWCPlugin(1.0, fisher="empirical")
    strategy_of(model, [plugin], criterion=nn.NLLLoss(ignore_index=7)).train(benchmark.train_stream[0])
    x, y = samples[0]
    assert_right(plugin.importance, expected(model, x[y != 7], "empirical", y[y != 7]))


@pytest.mark.parametrize("fisher", ["exact", "empirical"])
def test_an_experience_whose_first_samples_are_unlabelled_trains(fisher):
    """What is tried before training must not stumble over a batch without a label."""
    benchmark, samples = stream(96, labels=lambda y: torch.where(torch.arange(len(y)) < 80, -100, y))
    model, plugin = mlp(), EWCPlugin(1.0, fisher=fisher)

    class Shrugs(nn.CrossEntropyLoss):
        def forward(self, z, y):
            return super().forward(z, y) if (y >= 0).any() else z.sum() * 0

    strategy = strategy_of(model, [plugin], criterion=Shrugs())
    strategy.train(benchmark.train_stream[0])
    x, y = samples[0]
    assert_right(plugin.importance, expected(model, x[y >= 0], fisher, y[y >= 0]))


@pytest.mark.parametrize("fisher", ["exact", "empirical"])
def test_an_experience_without_any_label_is_an_error_before_training(fisher):
    benchmark, _ = stream(labels=lambda y: torch.full_like(y, -100))
    strategy = strategy_of(mlp(), [EWCPlugin(1.0, fisher=fisher)], criterion=lambda z, y: z.sum())
    strategy._criterion = nn.CrossEntropyLoss(reduction="none")
    with pytest.raises(ValueError, match=r"ignore_index|-100"):
        strategy.train(benchmark.train_stream[0])
    assert strategy.clock.train_iterations == 0, "it trained before the error"


@pytest.mark.parametrize("variant", ["exact", "empirical", "mas"])
def test_a_loader_whose_batches_are_without_a_label_now_and_then(variant):
    y, counts = labelled("the first batch", -100)
    y[16:] = -100
    counts[16:] = False
    loader = DataLoader(TensorDataset(X, y), batch_size=4)
    rows = slice(None) if variant == "mas" else counts
    assert_right(measure(mlp(), loader, variant), expected(mlp(), X[rows], variant, y[rows]))
