"""Outputs with positions: language models (N, T, C), segmentation (N, C, H, W), padding. The sample is the unit.

The reference goes through every labelling of a sample's positions.
"""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from avalanche.training import Naive
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from clreg_plugins import EWCPlugin, MASPlugin, fisher_diagonal, mas_importance
from tests import oracles
from tests.kinds.comparison import assert_right, strategy_of, stream

N, T, CLASSES = 5, 3, 3
TOKENS = torch.randint(1, 7, (N, T), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(N, 2, 2, 2, generator=torch.Generator().manual_seed(1))
VARIANTS = ("exact", "predicted", "empirical")


class LanguageModel(nn.Module):
    """Logits of each position from it and those before."""

    def __init__(self, output="tensor"):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.mix, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)
        self.scale, self.output = nn.Parameter(torch.ones(4)), output

    def forward(self, tokens, attention_mask=None):
        e = self.embedding(tokens)
        if attention_mask is not None:
            e = e * attention_mask[..., None].to(e)
        z = self.head(self.mix(e.cumsum(1)).tanh() * self.scale)
        return z if self.output == "tensor" else Answer(z)


@dataclass
class Answer:
    """Logits as an attribute."""

    logits: Tensor


class Segmentation(nn.Module):
    """Logits of each pixel, classes second."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, CLASSES, 1)

    def forward(self, x):
        return self.b(self.a(x).tanh())


class ClassesSecond(LanguageModel):
    """(N, C, T)"""

    def forward(self, tokens, attention_mask=None):
        return super().forward(tokens, attention_mask).transpose(1, 2)


def rows_of(z: Tensor, class_dim: int) -> Tensor:
    """(positions, classes) of one sample."""
    return z.movedim(class_dim, -1).reshape(-1, CLASSES)


def targets_of(shape: tuple[int, ...], ignored: str, ignore_index: int = -100) -> Tensor:
    """Labels, some ignored; of sample 2, all."""
    y = torch.randint(0, CLASSES, shape, generator=torch.Generator().manual_seed(3))
    if ignored == "padding":
        for n in range(N):
            y[n].view(-1)[1 + n % 3 :] = ignore_index
    if ignored != "none":
        y[2] = ignore_index
        y[3].view(-1)[0] = ignore_index
    return y


MODELS = {
    "language model": (LanguageModel, TOKENS, (N, T), -1),
    "classes second": (ClassesSecond, TOKENS, (N, T), 1),
    "segmentation": (Segmentation, IMAGES, (N, 2, 2), 1),
}


def want_of(model: str, variant: str, y: Tensor | None, ignore_index: int = -100) -> dict[str, Tensor]:
    build, x, _, class_dim = MODELS[model]

    def outputs(model, n):
        one = x[n : n + 1]
        return rows_of(model(one.double() if one.is_floating_point() else one), class_dim)

    if variant == "mas":
        return oracles.mas_of(build(), outputs, N)
    targets = None if y is None else [y[n].reshape(-1) for n in range(N)]
    return oracles.fisher_at_positions(build(), outputs, N, variant=variant, targets=targets, ignore_index=ignore_index)


@pytest.mark.parametrize("path", ["auto", "vectorised", "one_at_a_time"])
@pytest.mark.parametrize("ignored", ["none", "some", "padding"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model", MODELS)
def test_the_fisher_of_outputs_with_positions(model, variant, ignored, path):
    build, x, shape, class_dim = MODELS[model]
    y = targets_of(shape, ignored)
    got = fisher_diagonal(build(), TensorDataset(x, y), variant=variant, class_dim=class_dim, path=path, batch_size=3)
    assert_right(got, want_of(model, variant, y))


@pytest.mark.parametrize("variant", ["exact", "empirical"])
@pytest.mark.parametrize("model", MODELS)
def test_another_index_that_is_ignored(model, variant):
    build, x, shape, class_dim = MODELS[model]
    for ignore_index in (255, 0):
        y = targets_of(shape, "some", ignore_index)
        options = {"class_dim": class_dim, "ignore_index": ignore_index}
        got = fisher_diagonal(build(), TensorDataset(x, y), variant=variant, **options)
        assert_right(got, want_of(model, variant, y, ignore_index))


@pytest.mark.parametrize("variant", ["exact", "predicted"])
@pytest.mark.parametrize("model", MODELS)
def test_without_targets_every_position_counts(model, variant):
    build, x, _, class_dim = MODELS[model]
    got = fisher_diagonal(build(), TensorDataset(x), variant=variant, class_dim=class_dim)
    assert_right(got, want_of(model, variant, None))


@pytest.mark.filterwarnings("ignore:.*backward passes for each sample:UserWarning")
@pytest.mark.parametrize("ignored", ["none", "padding"])
@pytest.mark.parametrize("model", MODELS)
def test_drawn_labels_give_the_exact_fisher_in_expectation(model, ignored):
    """Each position's label is drawn for itself, all of a sample's at once."""
    build, x, shape, class_dim = MODELS[model]
    y = targets_of(shape, ignored)
    options = {"class_dim": class_dim, "variant": "sample", "seed": 1}
    got = fisher_diagonal(build(), TensorDataset(x, y), draws=700, **options)
    assert_right(got, want_of(model, "exact", y), 0.35)
    one, other = (fisher_diagonal(build(), TensorDataset(x, y), max_bytes=size, **options) for size in (2**30, 2**8))
    assert_right(one, other, 1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_the_gradient_of_a_batch_mean(model):
    """The mean over samples of the sum over positions that count; a sample without any counts for none."""
    build, x, shape, class_dim = MODELS[model]
    y = targets_of(shape, "some")
    z = build()(x)
    net = build()
    z = net(x).movedim(class_dim, 1)
    loss = F.cross_entropy(z, y, reduction="sum") / (N - 1)
    want = {
        name: g**2
        for (name, _), g in zip(net.named_parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True)
    }
    got = fisher_diagonal(build(), TensorDataset(x, y), variant="batched", class_dim=class_dim, batch_size=N)
    assert_right(got, want)


@pytest.mark.parametrize("path", ["auto", "vectorised", "one_at_a_time"])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_mas_of_outputs_with_positions(model, labelled, path):
    build, x, shape, _ = MODELS[model]
    data = TensorDataset(x, targets_of(shape, "some")) if labelled else TensorDataset(x)
    assert_right(mas_importance(build(), data, path=path), want_of(model, "mas", None))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_small_bound_on_memory(variant):
    y = targets_of((N, T), "padding")
    got = fisher_diagonal(LanguageModel(), TensorDataset(TOKENS, y), variant=variant, class_dim=-1, max_bytes=2**8)
    assert_right(got, want_of("language model", variant, y))


# -------------------------------------------------------------- shapes that do not fit


@pytest.mark.parametrize("variant", ["exact", "sample", "predicted", "empirical", "batched"])
def test_classes_sought_along_the_dimension_of_positions_are_an_error(variant):
    """The default takes dimension 1 for the classes; targets of shape (N, T) tell that a model has them last."""
    tokens = torch.randint(1, 7, (N, 4))
    with pytest.raises(ValueError, match=r"class_dim"):
        fisher_diagonal(LanguageModel(), TensorDataset(tokens, tokens % CLASSES), variant=variant)


@pytest.mark.parametrize("shape", [(N,), (N, T, 1), (N, T + 1), (N, 1)])
@pytest.mark.parametrize("variant", ["exact", "empirical"])
def test_targets_of_another_shape_are_an_error(variant, shape):
    y = torch.zeros(shape).long()
    with pytest.raises(ValueError, match=r"shape"):
        fisher_diagonal(LanguageModel(), TensorDataset(TOKENS, y), variant=variant, class_dim=-1)


@pytest.mark.parametrize("class_dim", [2, -1])
def test_the_last_dimension_by_either_number(class_dim):
    y = targets_of((N, T), "some")
    try:
        got = fisher_diagonal(LanguageModel(), TensorDataset(TOKENS, y), class_dim=class_dim)
    except ValueError as error:
        if class_dim == -1 or "class_dim" not in str(error):
            raise
    else:
        assert_right(got, want_of("language model", "exact", y))


def test_classes_last_of_outputs_without_positions():
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    got = fisher_diagonal(model, TensorDataset(x, y), class_dim=-1)
    want = oracles.fisher(model, (x, y), variant="exact", likelihood="categorical")
    assert_right(got, want)


# ---------------------------------------------------------------- as tokenizers give them


@pytest.mark.parametrize("kind", ["dict", "BatchEncoding"])
@pytest.mark.parametrize("output", ["tensor", "logits"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_padded_batches_of_a_language_model(variant, output, kind):
    """Padding differs from batch to batch; its labels are -100, its mask 0."""
    transformers = pytest.importorskip("transformers")
    make = dict if kind == "dict" else transformers.BatchEncoding
    lengths = [1, 3, 2, 1, 2]
    y = targets_of((N, T), "none")
    for n, length in enumerate(lengths):
        y[n, length:] = -100

    def collate(rows):
        longest = max(lengths[n] for n in rows)
        mask = torch.tensor([[int(t < lengths[n]) for t in range(longest)] for n in rows])
        return make({"tokens": TOKENS[rows, :longest] * mask, "attention_mask": mask, "labels": y[rows, :longest]})

    loader = DataLoader(list(range(N)), batch_size=2, collate_fn=collate)
    got = fisher_diagonal(LanguageModel(output), loader, variant=variant, class_dim=-1)

    def outputs(model, n):
        length = lengths[n]
        return model(TOKENS[n : n + 1, :length])[0]

    want = oracles.fisher_at_positions(
        LanguageModel(), outputs, N, variant=variant, targets=[y[n, : lengths[n]] for n in range(N)]
    )
    assert_right(got, want)


def test_labels_shifted_by_one():
    """A causal language model's loss compares position t with the token t + 1; ``forward`` says so."""
    y = torch.randint(0, CLASSES, (N, T), generator=torch.Generator().manual_seed(3))
    got = fisher_diagonal(
        LanguageModel(),
        TensorDataset(TOKENS, y[:, 1:].contiguous()),
        variant="empirical",
        class_dim=-1,
        forward=lambda model, inputs, task_labels: model(inputs)[:, :-1],
    )
    want = oracles.fisher_at_positions(
        LanguageModel(), lambda m, n: m(TOKENS[n : n + 1])[0, :-1], N, variant="empirical", targets=list(y[:, 1:])
    )
    assert_right(got, want)


@pytest.mark.parametrize("variant", ["exact", "empirical"])
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_maps_of_other_likelihoods(likelihood, variant):
    """Every output is one of the sample's, wherever it stands."""
    x = IMAGES[:, :, :1]
    targets = (torch.randn(N, CLASSES, 1, 2) > 0).float()
    got = fisher_diagonal(Segmentation(), TensorDataset(x, targets), variant=variant, likelihood=likelihood)
    assert_right(got, oracles.fisher(Segmentation(), (x, targets), variant=variant, likelihood=likelihood))


# --------------------------------------------------------------------- in strategies


class ClassesLast(Naive):
    def criterion(self):
        return F.cross_entropy(self.mb_output.transpose(1, 2), self.mb_y)


class Positions(nn.Module):
    """Two positions of each of the stream's inputs."""

    def __init__(self, last):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.last = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), last

    def forward(self, x):
        z = self.net(x.view(-1, 2, 3))
        return z if self.last else z.transpose(1, 2)


class TwoLabels(Naive):
    @property
    def mb_y(self):
        y = self.mbatch[1]
        return torch.stack([y, torch.where(y == 1, -100, (y + 1) % 3)], 1)


class TwoLabelsClassesLast(TwoLabels, ClassesLast):
    pass


@pytest.mark.parametrize("fisher", ["exact", "empirical"])
@pytest.mark.parametrize("last", [False, True])
def test_ewc_on_outputs_with_positions(last, fisher):
    benchmark, samples = stream(12)
    options = {"class_dim": -1, "likelihood": "categorical"} if last else {}
    model, plugin = Positions(last), EWCPlugin(1.0, fisher=fisher, **options)
    strategy = strategy_of(model, [plugin], TwoLabelsClassesLast if last else TwoLabels)
    strategy.train(benchmark.train_stream[0])
    x, y = samples[0]
    targets = [torch.tensor([int(label), -100 if label == 1 else (int(label) + 1) % 3]) for label in y]

    def outputs(m, n):
        return m.net(x[n].double().view(2, 3))

    want = oracles.fisher_at_positions(model, outputs, 12, variant=fisher, targets=targets)
    assert_right(plugin.importance, want)
    strategy.train(benchmark.train_stream[1])


def test_mas_on_outputs_with_positions():
    benchmark, samples = stream(12)
    model, plugin = Positions(False), MASPlugin(1.0)
    strategy_of(model, [plugin], TwoLabels).train(benchmark.train_stream[0])
    x = samples[0][0]
    want = oracles.mas_of(model, lambda m, n: m.net(x[n].double().view(2, 3)), 12)
    assert_right(plugin.importance, want)


def test_ewc_with_classes_sought_along_the_wrong_dimension_is_an_error_before_training():
    benchmark, _ = stream(12)
    strategy = strategy_of(Positions(True), [EWCPlugin(1.0, likelihood="categorical")], TwoLabelsClassesLast)
    with pytest.raises(ValueError, match="class_dim"):
        strategy.train(benchmark.train_stream[0])
    assert strategy.clock.train_iterations == 0, "it trained before the error"


@pytest.mark.parametrize("variant", ["exact", "empirical"])
def test_labels_of_one_byte_are_none_that_does_not_count(variant):
    """In that type 156 and the ignore_index −100 are one and the same."""
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 200), torch.randn(4, 4), torch.tensor([156, 3, 156, 7])
    got = fisher_diagonal(model, TensorDataset(x, y.to(torch.uint8)), variant=variant)
    assert_right(got, dict(fisher_diagonal(model, TensorDataset(x, y), variant=variant)))
