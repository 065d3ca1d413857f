"""Batches as people have them: dicts, objects, several inputs, lengths; no type is guessed by a name."""

from collections import UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split

from clreg_plugins import fisher_diagonal, mas_importance
from tests.kinds.comparison import assert_right, assert_right_or_refused, expected, measure

transformers = pytest.importorskip("transformers")

VARIANTS = ("exact", "predicted", "empirical", "mas")
N = 10
X, SCALE, Y = (
    torch.randn(N, 4, generator=torch.Generator().manual_seed(5)),
    torch.arange(N) % 3 + 1.0,
    torch.arange(N) % 3,
)
SCALED = X * SCALE[:, None]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def labels_of(variant: str) -> Tensor | None:
    return Y if variant == "empirical" else None


class Scaled(nn.Module):
    """Two inputs of each sample; its output is a tensor, a dict, or an object with ``.logits``."""

    def __init__(self, kind: str = "tensor"):
        super().__init__()
        self.net, self.kind = net(), kind

    def forward(self, x, scale, labels=None):
        z = self.net(x * scale.view(-1, 1))
        if self.kind == "dict":
            return {"loss": z.sum(), "logits": z}
        if self.kind == "object":
            return Answer(z.sum(), z)
        if self.kind == "transformers":
            return transformers.modeling_outputs.SequenceClassifierOutput(logits=z)
        return z


@dataclass
class Answer:
    """An output as an object."""

    loss: Tensor
    logits: Tensor


def want_of(variant: str) -> dict[str, Tensor]:
    return expected(Scaled(), SCALED, variant, labels_of(variant), lambda m, v: m.net(v))


class Samples(Dataset):
    """Indices; what a batch of them is, the loader's collate says."""

    def __len__(self):
        return N

    def __getitem__(self, n):
        return n


def loader(batch_of: Any, batch_size: int = 4, **options: Any) -> DataLoader:
    """Batches ``batch_of(indices)``."""
    return DataLoader(Samples(), batch_size, collate_fn=lambda rows: batch_of(torch.tensor(rows)), **options)


Named = namedtuple("Named", ["inputs", "targets"])


@dataclass
class Batch:
    """A batch as an object."""

    x: Tensor
    scale: Tensor
    y: Tensor


MAPPINGS = {"dict": dict, "UserDict": UserDict, "BatchEncoding": transformers.BatchEncoding}


# ------------------------------------------------------------------ dicts and objects


@pytest.mark.parametrize("output", ["tensor", "dict", "object", "transformers"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_with_logits(variant, output):
    data = loader(lambda rows: {"x": X[rows], "scale": SCALE[rows], "labels": Y[rows]})
    assert_right(measure(Scaled(output), data, variant), want_of(variant))


@pytest.mark.parametrize("key", ["labels", "label"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", MAPPINGS)
def test_mappings(kind, variant, key):
    data = loader(lambda rows: MAPPINGS[kind]({"x": X[rows], "scale": SCALE[rows], key: Y[rows]}))
    assert_right(measure(Scaled(), data, variant), want_of(variant))


@pytest.mark.parametrize("kind", MAPPINGS)
def test_mappings_without_labels(kind):
    data = loader(lambda rows: MAPPINGS[kind]({"x": X[rows], "scale": SCALE[rows]}))
    for variant in ("exact", "predicted", "mas"):
        assert_right(measure(Scaled(), data, variant), want_of(variant))
    with pytest.raises(ValueError, match="targets"):
        fisher_diagonal(Scaled(), data, variant="empirical")


def test_a_dataset_of_dicts():
    samples = [{"x": X[n], "scale": SCALE[n], "labels": int(Y[n])} for n in range(N)]
    for variant in VARIANTS:
        assert_right(measure(Scaled(), samples, variant), want_of(variant))


def test_a_caller_gets_the_batches_back_unchanged():
    """No key is taken out of a dict that the caller holds."""
    batches = [{"x": X, "scale": SCALE, "labels": Y}]
    fisher_diagonal(Scaled(), DataLoader(batches, batch_size=None), variant="empirical")
    assert set(batches[0]) == {"x", "scale", "labels"}


@pytest.mark.parametrize("n_samples", [1, 5, 8])
def test_the_first_samples_of_a_loader_of_dicts(n_samples):
    data = loader(lambda rows: {"x": X[rows], "scale": SCALE[rows], "labels": Y[rows]})
    want = expected(Scaled(), SCALED[:n_samples], outputs=lambda m, v: m.net(v))
    assert_right(fisher_diagonal(Scaled(), data, n_samples=n_samples), want)


@pytest.mark.parametrize("variant", VARIANTS)
def test_objects_are_unpacked_by_the_caller(variant):
    data = loader(lambda rows: Batch(X[rows], SCALE[rows], Y[rows]))
    with pytest.raises((TypeError, ValueError), match="unpack"):
        measure(Scaled(), data, variant)
    for unpack in (
        lambda batch: ((batch.x, batch.scale), batch.y),
        lambda batch: ({"scale": batch.scale, "x": batch.x}, batch.y),
    ):
        assert_right(measure(Scaled(), data, variant, unpack=unpack), want_of(variant))


def test_what_unpack_gives_may_lack_targets_or_hold_task_labels():
    data = loader(lambda rows: Batch(X[rows], SCALE[rows], Y[rows]))
    got = fisher_diagonal(Scaled(), data, unpack=lambda batch: ((batch.x, batch.scale),))
    assert_right(got, want_of("exact"))

    class ByTask(Scaled):
        def forward(self, x, task_labels):
            return super().forward(x, task_labels)

    got = fisher_diagonal(ByTask(), data, unpack=lambda batch: (batch.x, batch.y, batch.scale))
    assert_right(got, want_of("exact"))


@pytest.mark.parametrize("bad", [lambda b: None, lambda b: (), lambda b: (b.x, b.y, b.scale, b.x), lambda b: 3])
def test_what_unpack_may_not_give(bad):
    data = loader(lambda rows: Batch(X[rows], SCALE[rows], Y[rows]))
    with pytest.raises((TypeError, ValueError), match="unpack"):
        fisher_diagonal(Scaled(), data, unpack=bad)


# -------------------------------------------------------------- several inputs, and what is not by sample


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", ["pair and target", "list of a list", "named"])
def test_several_inputs_in_a_tuple(shape, variant):
    make = {
        "pair and target": lambda rows: ((X[rows], SCALE[rows]), Y[rows]),
        "list of a list": lambda rows: [[X[rows], SCALE[rows]], Y[rows]],
        "named": lambda rows: Named((X[rows], SCALE[rows]), Y[rows]),
    }[shape]
    assert_right(measure(Scaled(), loader(make), variant), want_of(variant))


@pytest.mark.parametrize("path", ["auto", "vectorised", "one_at_a_time"])
@pytest.mark.parametrize("variant", ["exact", "mas"])
def test_nested_inputs(variant, path):
    class Nested(Scaled):
        def forward(self, image, more):
            return super().forward(image, more["scale"][0])

    data = loader(lambda rows: ({"image": X[rows], "more": {"scale": (SCALE[rows], X[rows])}}, Y[rows]))
    assert_right(measure(Nested(), data, variant, path=path), want_of(variant))


@pytest.mark.parametrize("size", [3, 5])
def test_an_input_that_all_samples_share(size):
    """A table with a dimension that is no sample's; with five samples a batch even its length says nothing."""

    class WithTable(Scaled):
        def forward(self, x, table, labels=None):
            return self.net(x + table.mean(0))

    table = torch.randn(5, 4)
    data = loader(lambda rows: {"x": X[rows], "table": table, "labels": Y[rows]}, batch_size=size)
    want = expected(Scaled(), X + table.mean(0), outputs=lambda m, v: m.net(v))
    assert_right_or_refused(lambda: fisher_diagonal(WithTable(), data), want)


def test_inputs_that_are_no_tensors():
    class WithOptions(Scaled):
        def forward(self, x, scale, factor=1.0, names=None, labels=None):
            return super().forward(x * factor, scale / factor)

    data = loader(lambda rows: {"x": X[rows], "scale": SCALE[rows], "factor": 2.0, "labels": Y[rows]})
    assert_right_or_refused(lambda: fisher_diagonal(WithOptions(), data), want_of("exact"))


def test_samples_along_another_dimension_are_refused_or_right():
    """Tokens first, as recurrent layers have them by default: four tokens, and four samples a batch."""

    class TokensFirst(Scaled):
        def forward(self, x):
            return self.net(x.mean(0))

    tokens = torch.randn(4, N, 4)
    data = loader(lambda rows: (tokens[:, rows], Y[rows]), batch_size=4)
    want = expected(Scaled(), tokens.mean(0)[:8], outputs=lambda m, v: m.net(v))
    assert_right_or_refused(lambda: fisher_diagonal(TokensFirst(), data, n_samples=8), want)


# ------------------------------------------------------------------------ lengths


class Lengths(nn.Module):
    """Reads so many tokens of each sample."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.lstm = nn.Embedding(20, 4, padding_idx=0), nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, 10)

    def forward(self, tokens, lengths=None):
        if isinstance(tokens, nn.utils.rnn.PackedSequence):
            padded, lengths = pad_packed_sequence(tokens, batch_first=True)
            tokens = padded
        lengths = (tokens != 0).sum(1) if lengths is None else lengths
        packed = pack_padded_sequence(self.embedding(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (h, _) = self.lstm(packed)
        return self.head(h[0])


SEQUENCES = [torch.randint(1, 20, (1 + n % 5,), generator=torch.Generator().manual_seed(n)) for n in range(N)]


def padded(rows: Tensor) -> Tensor:
    return pad_sequence([SEQUENCES[n] for n in rows], batch_first=True)


def lengths_of(rows: Tensor) -> Tensor:
    return torch.tensor([len(SEQUENCES[n]) for n in rows])


@pytest.mark.parametrize("variant", VARIANTS)
def test_inputs_lengths_and_labels_are_an_error_until_their_order_is_named(variant):
    """Lengths are whole numbers below the number of classes, as labels are."""
    model, data = Lengths(), loader(lambda rows: (padded(rows), lengths_of(rows), Y[rows]))
    with pytest.raises(ValueError, match="unpack"):
        measure(model, data, variant)
    want = expected(model, SEQUENCES, variant, labels_of(variant))
    for unpack in (lambda b: ((b[0], b[1]), b[2]), lambda b: (b[0], b[2]), lambda b: ({"tokens": b[0]}, b[2])):
        assert_right(measure(model, data, variant, unpack=unpack), want)


@pytest.mark.parametrize("order", ["x y weight", "index x y", "x y t without task labels", "four"])
def test_other_tuples_of_three_or_more_are_errors(order):
    rows_to_batch = {
        "x y weight": lambda rows: (X[rows], Y[rows], SCALE[rows]),
        "index x y": lambda rows: (rows, X[rows], Y[rows]),
        "x y t without task labels": lambda rows: [X[rows], Y[rows], torch.zeros(len(rows)).long()],
        "four": lambda rows: (X[rows], Y[rows], SCALE[rows], Y[rows]),
    }[order]
    for variant in ("exact", "empirical", "mas"):
        with pytest.raises(ValueError, match="unpack"):
            measure(net(), loader(rows_to_batch), variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_sequences(variant):
    model = Lengths()
    data = loader(lambda rows: (pack_sequence([SEQUENCES[n] for n in rows], enforce_sorted=False), Y[rows]))
    assert_right(measure(model, data, variant), expected(model, SEQUENCES, variant, labels_of(variant)))


def test_packed_sequences_within_a_dict_and_sorted_by_the_caller():
    model = Lengths()
    order = sorted(range(N), key=lambda n: -len(SEQUENCES[n]))
    data = loader(
        lambda rows: {
            "tokens": pack_sequence([SEQUENCES[order[n]] for n in rows]),
            "labels": Y[[order[n] for n in rows]],
        }
    )
    for variant in ("exact", "empirical"):
        assert_right(measure(model, data, variant), expected(model, SEQUENCES, variant, labels_of(variant)))
    got = fisher_diagonal(model, data, n_samples=6)
    assert_right(got, expected(model, [SEQUENCES[n] for n in order[:6]]))


# --------------------------------------------------- types that a name does not tell


class Transformed(Dataset):
    """Keeps what it wraps as an attribute that Avalanche's datasets have as a method."""

    def __init__(self, subset):
        self.subset = subset

    def __len__(self):
        return len(self.subset)

    def __getitem__(self, n):
        x, y = self.subset[n]
        return x * 2, y


class Flags(Transformed):
    train, eval = True, False


class Phases(Transformed):
    """Methods of these names that mean something else."""

    def train(self):
        raise RuntimeError("this would start a training run")

    def eval(self):
        raise RuntimeError("this would evaluate")


class Collates(Transformed):
    """Notes which collate function it was saved with."""

    collate_fn, targets, transform_groups = "default", None, "none"


class ManyNames(Transformed):
    """Whatever Avalanche's datasets have, as plain attributes."""

    train, eval, subset, concat, targets_task_labels, task_labels = True, 1, "all", 0, None, [7]

    def __init__(self, subset):
        self.wrapped = subset

    def __len__(self):
        return len(self.wrapped)

    def __getitem__(self, n):
        x, y = self.wrapped[n]
        return x * 2, y


@pytest.mark.parametrize("kind", [Transformed, Flags, Phases, Collates, ManyNames])
@pytest.mark.parametrize("n_samples", [None, 5])
@pytest.mark.parametrize("variant", ["exact", "empirical", "mas"])
def test_datasets_with_attributes_of_avalanches_names(kind, n_samples, variant):
    part, _ = random_split(TensorDataset(X, Y), [8, 2], torch.Generator().manual_seed(0))
    got = measure(net(), kind(part), variant, n_samples=n_samples, seed=3)
    rows = torch.arange(8)
    if n_samples:
        rows = torch.randperm(8, generator=torch.Generator().manual_seed(3))[:n_samples]
    rows = torch.tensor(part.indices)[rows]
    assert_right(got, expected(net(), X[rows] * 2, variant, Y[rows] if variant == "empirical" else None))


class NotCompiled(nn.Module):
    """Keeps what it wraps under the name that ``torch.compile`` gives, and doubles it."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        setattr(self, name, net())

    def forward(self, x):
        return 2 * getattr(self, self.name)(x)


@pytest.mark.parametrize("name", ["_orig_mod", "module", "_fsdp_wrapped_module", "model", "heads"])
def test_models_with_attributes_of_a_wrappers_names(name):
    model = NotCompiled(name)
    want = expected(model, X)
    got = fisher_diagonal(model, TensorDataset(X))
    assert_right(dict(zip(want, got.values(), strict=True)), want)


class NamesTaskLabels(nn.Module):
    """A forward that names ``task_labels`` has three in a tuple; the third is not by chance what it is."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x, task_labels):
        return self.net(x * task_labels[:, None])


def test_task_labels_of_a_forward_that_names_them():
    got = fisher_diagonal(NamesTaskLabels(), TensorDataset(X, Y, SCALE), variant="empirical")
    assert_right(got, expected(NamesTaskLabels(), SCALED, "empirical", Y, lambda m, v: m.net(v)))


# ------------------------------------------------------------------------ squeezes


class Squeezes(nn.Sequential):
    def forward(self, x):
        return super().forward(x).squeeze()


class SqueezesFeatures(nn.Module):
    """A pooled feature map without its dimensions of size one."""

    def __init__(self):
        super().__init__()
        self.c, self.f = nn.Conv1d(1, 5, 4), nn.Linear(5, 3)

    def forward(self, x):
        return self.f(self.c(x[:, None]).squeeze())


class Alone(nn.Module):
    """What a squeezing model would give for one sample, were it asked."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(torch.cat([x, x]))[:1].reshape(1, -1)


@pytest.mark.parametrize("path", ["auto", "vectorised", "one_at_a_time"])
@pytest.mark.parametrize("batch_size", [6, 9])
@pytest.mark.parametrize("kind", ["outputs", "features"])
def test_models_that_squeeze(kind, batch_size, path):
    """Batches are never of one sample, nor is a piece of one; where a path needs single samples, it says so itself."""
    torch.manual_seed(0)
    model = Squeezes(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)) if kind == "outputs" else SqueezesFeatures()
    x, likelihood = torch.randn(18, 4), "gaussian" if kind == "outputs" else "categorical"
    if kind == "features":
        want = expected(model, x, outputs=lambda m, v: Alone(m)(v))
    else:  # the Fisher of one Gaussian mean is half of MAS's ‖∂z‖, squared
        want = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
        for n in range(18):
            one = expected(model, x[n : n + 1], "mas", outputs=lambda m, v: Alone(m)(v))
            z = float(Alone(model)(x[n : n + 1]).detach())
            want = {name: want[name] + (one[name] / (2 * z)) ** 2 / 18 for name in want}
    data = DataLoader(TensorDataset(x), batch_size=batch_size)
    if path == "auto":
        assert_right(fisher_diagonal(model, data, likelihood=likelihood), want)
        return
    try:
        got = fisher_diagonal(model, data, likelihood=likelihood, path=path)
    except (ValueError, IndexError, RuntimeError) as error:
        if "one sample" not in str(error) and "vmap" not in str(error) and "alone" not in str(error):
            raise AssertionError(f"it speaks of what nobody gave: {error}") from error
    else:
        assert_right(got, want)


def test_a_model_for_batches_of_one_size_only():
    class OfSix(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            assert len(x) == 6, f"a batch of {len(x)}"
            return self.net(x.view(6, 4))

    x = torch.randn(12, 4)
    data = DataLoader(TensorDataset(x), batch_size=6)
    try:
        got = fisher_diagonal(OfSix(), data)
    except (ValueError, RuntimeError) as error:
        if "sample" not in str(error):
            raise AssertionError(f"it does not say what cannot be measured: {error}") from error
    else:
        assert_right(got, expected(OfSix(), x, outputs=lambda m, v: m.net(v)))


def test_mas_of_a_bare_tensor_and_of_lists():
    want = expected(net(), X, "mas")
    for data in (DataLoader(X, batch_size=4), TensorDataset(X), [[X[n], int(Y[n])] for n in range(N)], list(X)):
        assert_right(mas_importance(net(), data), want)


class Placed(nn.Module):
    """One row of places for the whole batch, before the tokens."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.places, self.head = nn.Embedding(7, 5), nn.Embedding(4, 5), nn.Linear(5, 3)

    def forward(self, places, tokens):
        return self.head((self.tokens(tokens) + self.places(places)).tanh().mean(1))


@pytest.mark.parametrize("size", [2, 4])
def test_a_first_input_of_one_row_is_not_the_only_sample(size):
    tokens, places = torch.randint(0, 7, (8, 4)), torch.arange(4)[None]

    def collate(rows):
        return {"places": places, "tokens": torch.stack(rows)}

    with pytest.raises(ValueError, match=rf"shape \({size}, 3\) for a batch of 1"):
        fisher_diagonal(Placed(), DataLoader(list(tokens), batch_size=size, collate_fn=collate))
