"""As many rows as samples, but not one row a sample; and samples whose outputs depend on their neighbours."""

import functools
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, TensorDataset

from clreg_plugins import fisher_diagonal, mas_importance
from tests.kinds.comparison import assert_right, assert_right_or_refused, expected, measure

VARIANTS = ("exact", "empirical", "mas")


class Layers(nn.Module):
    """A layer between rows that depend on the data, and a head."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(2, 2), nn.Linear(2, 3)


class Unpadded(Layers):
    """Tokens whose first entry is not 0, each a row."""

    def forward(self, x):
        where = (x[..., 0] != 0).nonzero()
        h = self.layer(x[where[:, 0], where[:, 1]]).tanh()
        return self.head(torch.zeros(len(x), 2, dtype=x.dtype).index_add(0, where[:, 0], h))


class Listed(Layers):
    """The same by a Python list."""

    def forward(self, x):
        where = [(n, t) for n, real in enumerate((x[..., 0] != 0).tolist()) for t, yes in enumerate(real) if yes]
        h = self.layer(torch.stack([x[n, t] for n, t in where])).tanh() if where else x.new_zeros(0, 2)
        z = [sum((h[row] for row, (n, _) in enumerate(where) if n == k), x.new_zeros(2)) for k in range(len(x))]
        return self.head(torch.stack(z))


class ByNumpy(Layers):
    """The same by numpy's indices."""

    def forward(self, x):
        samples, tokens = np.nonzero(x[..., 0].detach().numpy())
        h = self.layer(x[samples.tolist(), tokens.tolist()]).tanh()
        return self.head(torch.zeros(len(x), 2, dtype=x.dtype).index_add(0, torch.as_tensor(samples.copy()), h))


class BySelection(Layers):
    """The same by a mask, scattered back by a cumulative count."""

    def forward(self, x):
        real = x[..., 0] != 0
        h = self.layer(x.flatten(0, 1)[real.flatten()]).tanh()
        back = torch.zeros(x.shape[0] * x.shape[1], 2, dtype=x.dtype).masked_scatter(real.view(-1, 1), h)
        return self.head(back.view(*x.shape[:2], 2).sum(1))


class Buffered(Layers):
    """A buffer of fixed capacity, filled by the real tokens from the top; what is left of it is zero."""

    capacity = 10

    def forward(self, x):
        where = (x[..., 0] != 0).nonzero()
        buffer = torch.zeros(self.capacity, 2, dtype=x.dtype)
        buffer[: len(where)] = x[where[:, 0], where[:, 1]]
        h = self.layer(buffer).tanh()[: len(where)]
        return self.head(torch.zeros(len(x), 2, dtype=x.dtype).index_add(0, where[:, 0], h))


class Nested(Layers):
    """The same in a tensor of all tokens and their offsets."""

    def forward(self, x):
        real = x[..., 0] != 0
        h = self.layer(x[real]).tanh()
        ends = real.sum(1).cumsum(0)
        sums = torch.cat([h.new_zeros(1, 2), h.cumsum(0)])
        return self.head(sums[ends] - sums[ends - real.sum(1)])


class ByProducts(Layers):
    """A buffer that products with one-hot matrices fill and empty, as experts have on accelerators."""

    capacity = 10

    def places(self, x):
        real = (x[..., 0] != 0).flatten()
        place = real.cumsum(0) - 1
        return real, place.clamp(min=0, max=self.capacity - 1)

    def forward(self, x):
        real, place = self.places(x)
        dispatch = (place[:, None] == torch.arange(self.capacity)).to(x) * real[:, None]
        h = self.layer(dispatch.T @ x.flatten(0, 1)).tanh()
        return self.head((dispatch @ h).view(*x.shape[:2], 2).sum(1))


class ByEmbedding(ByProducts):
    """The same, rows looked up as an embedding's are."""

    def forward(self, x):
        real, place = self.places(x)
        filled = (place[:, None] == torch.arange(self.capacity)) * real[:, None]
        token = (filled * torch.arange(len(real))[:, None]).sum(0)
        rows = F.embedding(token, x.flatten(0, 1)) * filled.sum(0)[:, None]
        h = F.embedding(place, self.layer(rows).tanh()) * real[:, None]
        return self.head(h.view(*x.shape[:2], 2).sum(1))


class ByOperators(Layers):
    """The same by PyTorch's operators themselves."""

    def forward(self, x):
        where = torch.ops.aten.nonzero.default(x[..., 0] != 0)
        h = self.layer(torch.ops.aten.index.Tensor(x, [where[:, 0], where[:, 1]])).tanh()
        empty = torch.zeros(len(x), 2, dtype=x.dtype)
        return self.head(torch.ops.aten.index_add.default(empty, 0, where[:, 0], h))


def _rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    where = (x[..., 0] != 0).nonzero()
    return x[where[:, 0], where[:, 1]], where[:, 0]


def _sums(h: torch.Tensor, samples: torch.Tensor, n: int) -> torch.Tensor:
    return torch.zeros([n, 2], dtype=h.dtype).index_add(0, samples, h)


@functools.cache
def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.script(_rows), torch.jit.script(_sums)


class ByScript(Layers):
    """The same within compiled functions, which nobody sees into."""

    def forward(self, x):
        pick, add = scripted()
        rows, samples = pick(x)
        return self.head(add(self.layer(rows).tanh(), samples, len(x)))


class Pick(torch.autograd.Function):
    """Rows of a tensor, with a backward pass of its own."""

    @staticmethod
    def forward(ctx, x, rows):
        ctx.save_for_backward(rows)
        ctx.n = len(x)
        return torch.from_numpy(x.detach().numpy()[rows.numpy()])

    @staticmethod
    def backward(ctx, g):
        (rows,) = ctx.saved_tensors
        return torch.zeros(ctx.n, *g.shape[1:], dtype=g.dtype).index_add(0, rows, g), None


class ByAFunction(ByProducts):
    """The same by an autograd function of the user's."""

    def forward(self, x):
        real, place = self.places(x)
        filled = (place[:, None] == torch.arange(self.capacity)) * real[:, None]
        token = (filled * torch.arange(len(real))[:, None]).sum(0)
        rows = Pick.apply(x.flatten(0, 1), token) * filled.sum(0)[:, None]
        h = Pick.apply(self.layer(rows).tanh(), place) * real[:, None]
        return self.head(h.view(*x.shape[:2], 2).sum(1))


def tokens(order="last"):
    """Eight samples of one token, one of two and one of none: ten rows of ten samples."""
    x = torch.randn(10, 2, 2, generator=torch.Generator().manual_seed(1))
    x[:8, 1] = 0
    x[9] = 0
    return x if order == "last" else x.flip(0)


KINDS = [
    Unpadded, Listed, ByNumpy, BySelection, Buffered, Nested, ByProducts, ByEmbedding, ByOperators, ByScript,
    ByAFunction,
]  # fmt: skip


WAYS = [("exact", "last"), ("empirical", "last"), ("mas", "last"), ("exact", "first")]


@pytest.mark.parametrize(("variant", "order"), WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_unpadded_tokens(kind, variant, order):
    torch.manual_seed(0)
    model, x, y = kind().double(), tokens(order).double(), torch.arange(10) % 3
    want = expected(model, x, variant, y if variant == "empirical" else None)
    assert_right(measure(model, TensorDataset(x, y), variant), want)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [8, 40])
def test_rows_that_are_samples_in_the_first_batch_only(kind, batch_size):
    """One token a sample to begin with; later rows are as many, but of other samples."""
    torch.manual_seed(0)
    model = kind().double()
    x = torch.randn(40, 2, 2).double()
    x[:, 1] = 0
    model.capacity = batch_size
    for n in (12, 21, 22, 33):
        x[n, 1] = torch.randn(2)
        x[n + 1] = 0
    assert_right(fisher_diagonal(model, TensorDataset(x), batch_size=batch_size), expected(model, x))


def test_rows_that_are_samples_in_the_first_batch_only_for_a_shuffle_within():
    """As many rows, each of one sample, but in another order than the samples'."""

    class Sorted(Layers):
        def forward(self, x):
            order = x[:, 0].argsort()
            h = self.layer(x[order]).tanh() * torch.arange(1, len(x) + 1, dtype=x.dtype)[:, None].clamp(max=1)
            return self.head(h[order.argsort()])

    torch.manual_seed(0)
    model, x = Sorted(), torch.randn(24, 2)
    x[:8, 0] = x[:8, 0].sort().values
    assert_right(fisher_diagonal(model, TensorDataset(x), batch_size=8), expected(model, x))


# ------------------------------------------------------------------- experts and gates


class Experts(nn.Module):
    """Each token goes to its best expert, which has room for so many of them; others are dropped."""

    def __init__(self, capacity):
        super().__init__()
        self.gate, self.head = nn.Linear(4, 3), nn.Linear(4, 3)
        self.experts, self.capacity = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), capacity

    def forward(self, x):
        rows = x.flatten(0, 1)
        scores, chosen = self.gate(rows).softmax(1).max(1)
        out = torch.zeros_like(rows)
        capacity = self.capacity or len(x)
        for number, expert in enumerate(self.experts):
            mine = (chosen == number).nonzero().flatten()[:capacity]
            room = torch.zeros(capacity, 4, dtype=x.dtype)
            room[: len(mine)] = rows[mine]
            out = out.index_add(0, mine, expert(room).tanh()[: len(mine)] * scores[mine, None])
        return self.head(out.view(x.shape).sum(1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_experts_with_room_for_all(variant):
    torch.manual_seed(0)
    model, x, y = Experts(64), torch.randn(16, 2, 4), torch.arange(16) % 3
    want = expected(model, x, variant, y if variant == "empirical" else None)
    assert_right(measure(model, TensorDataset(x, y), variant), want)


@pytest.mark.parametrize("measured", [fisher_diagonal, mas_importance])
def test_experts_that_drop_tokens_mix_samples(measured):
    """Whether a token is dropped depends on the samples before it, so that a sample alone is another thing."""
    torch.manual_seed(0)
    model, x = Experts(3), torch.randn(16, 2, 4)
    assert not torch.allclose(model(x)[-1:], model(x[-1:]))
    with pytest.raises(ValueError, match="sample"):
        measured(model, TensorDataset(x))


def test_experts_whose_room_is_as_many_rows_as_samples():
    torch.manual_seed(0)
    model, x = Experts(None), torch.randn(12, 1, 4)
    assert_right(fisher_diagonal(model, TensorDataset(x)), expected(model, x))


class Gathers(nn.Module):
    """A learned gate says which token each sample looks at."""

    def __init__(self, soft):
        super().__init__()
        self.gate, self.layer, self.head, self.soft = nn.Linear(4, 1), nn.Linear(4, 4), nn.Linear(4, 3), soft

    def forward(self, x):
        scores = self.gate(x)[..., 0].softmax(1)
        best = scores.argmax(1)
        chosen = x.gather(1, best.view(-1, 1, 1).expand(-1, 1, 4))[:, 0]
        h = self.layer(chosen).tanh()
        if self.soft:
            h = h * scores.gather(1, best[:, None])
        spread = torch.zeros_like(x).scatter(1, best.view(-1, 1, 1).expand(-1, 1, 4), h[:, None])
        return self.head(spread.sum(1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_learned_gate_that_gathers_and_scatters(variant):
    torch.manual_seed(0)
    model, x, y = Gathers(True), torch.randn(12, 3, 4), torch.arange(12) % 3
    want = expected(model, x, variant, y if variant == "empirical" else None)
    assert_right(measure(model, TensorDataset(x, y), variant), want)


def test_rows_of_unique_inputs():
    """Equal samples share a row: as many rows as samples in batches without a pair of equals."""

    class Unique(Layers):
        def forward(self, x):
            rows, back = x.unique(dim=0, return_inverse=True)
            return self.head(self.layer(rows).tanh()[back])

    torch.manual_seed(0)
    model, x = Unique(), torch.randn(24, 2)
    x[13], x[21] = x[10], x[16]
    for batch_size in (8, 24):
        assert_right(fisher_diagonal(model, TensorDataset(x), batch_size=batch_size), expected(model, x))


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_of_half_of_the_samples_twice(variant):
    """As many rows as samples, all in order, but each of every second sample's two halves."""

    class Halves(Layers):
        def forward(self, x):
            chosen = (x[:, 0, 0] > 0).nonzero().flatten()
            h = self.layer(x[chosen].flatten(0, 1)).tanh()
            z = torch.zeros(len(x), 2, dtype=x.dtype)
            return self.head(z.index_add(0, chosen.repeat_interleave(2), h))

    torch.manual_seed(0)
    model, x, y = Halves(), torch.randn(24, 2, 2), torch.arange(24) % 3
    x[:, 0, 0] = x[:, 0, 0].abs() * torch.tensor([1.0, -1.0]).repeat(12)
    want = expected(model, x, variant, y if variant == "empirical" else None)
    assert_right(measure(model, TensorDataset(x, y), variant, batch_size=8), want)


# ------------------------------------------------------------------ sorting and packing


class Packed(nn.Module):
    """Packed by length within the forward, a projection between."""

    def __init__(self):
        super().__init__()
        self.embedding, self.projection = nn.Embedding(20, 4, padding_idx=0), nn.Linear(4, 5)
        self.lstm, self.head = nn.LSTM(5, 6, batch_first=True, bidirectional=True), nn.Linear(12, 4)

    def forward(self, t):
        lengths = (t != 0).sum(1)
        packed = pack_padded_sequence(self.embedding(t), lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.lstm(packed._replace(data=self.projection(packed.data).tanh()))
        return self.head(torch.cat([h[0], h[1]], 1))


class SortedByLength(nn.Module):
    """Sorts by length, runs only those that go on at each step, and sorts back."""

    def __init__(self):
        super().__init__()
        self.embedding, self.step, self.head = nn.Embedding(20, 4, padding_idx=0), nn.Linear(8, 4), nn.Linear(4, 4)

    def forward(self, t):
        lengths = (t != 0).sum(1)
        order = lengths.argsort(descending=True, stable=True)
        e, state = self.embedding(t[order]), torch.zeros(len(t), 4, dtype=self.head.weight.dtype)
        for position in range(int(lengths.max())):
            going = int((lengths > position).sum())
            moved = self.step(torch.cat([e[:going, position], state[:going]], 1)).tanh()
            state = torch.cat([moved, state[going:]])
        return self.head(state[order.argsort()])


def padded(batch):
    return pad_sequence([t for t, _ in batch], batch_first=True), torch.tensor([y for _, y in batch])


@pytest.mark.parametrize("first", ["mixed", "all of length 1", "all of one length"])
@pytest.mark.parametrize("variant", ["exact", "empirical", "mas"])
@pytest.mark.parametrize("kind", [Packed, SortedByLength])
def test_sequences_of_unlike_lengths(kind, variant, first):
    torch.manual_seed(0)
    model = kind()
    sequences = [torch.randint(1, 20, (int(length),)) for length in torch.randint(1, 6, (18,))]
    if first == "all of length 1":
        sequences[:6] = [t[:1] for t in sequences[:6]]
    elif first == "all of one length":
        sequences[:6] = [torch.randint(1, 20, (3,)) for _ in range(6)]
    labels = [n % 4 for n in range(18)]
    loader = DataLoader(list(zip(sequences, labels, strict=True)), batch_size=6, collate_fn=padded)
    want = expected(model, sequences, variant, labels if variant == "empirical" else None)
    assert_right(measure(model, loader, variant), want)


# ------------------------------------------------------------- samples that feel each other


class Centred(nn.Module):
    """Feels its batch in the way that ``how`` says."""

    def __init__(self, how):
        super().__init__()
        self.net, self.how = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), how

    def forward(self, x):
        h = self.net[1](self.net[0](x))
        if self.how == "mean":
            h = h - h.mean(0)
        elif self.how == "attention":
            h = (h @ h.T).softmax(1) @ h
        elif self.how == "neighbour":
            h = h + 0.1 * h.roll(1, 0)
        elif self.how == "maximum":
            h = h / h.abs().max()
        elif self.how == "count":
            h = h / len(h)
        elif self.how == "first":
            h = h + 0.1 * h[:1]
        elif self.how == "clipped maximum":  # a scale of the batch, as dynamic quantisation has, from some size on
            h = h / x.abs().amax().div(50).clamp(min=1)
        elif self.how == "smoothly later":
            h = h - h.mean(0) * (x.amax() - 50).mul(100).sigmoid()
        elif self.how == "later":  # in batches that hold a large value only
            h = h - h.mean(0) if float(x.max()) > 50 else h
        return self.net[2](h)


HOWS = ["mean", "attention", "neighbour", "maximum", "count", "first", "later", "clipped maximum", "smoothly later"]


@pytest.mark.parametrize("path", ["auto", "vectorised", "one_at_a_time"])
@pytest.mark.parametrize("how", HOWS)
def test_samples_that_feel_each_other_are_refused(how, path):
    torch.manual_seed(0)
    model, x = Centred(how), torch.randn(24, 4)
    x[20, 0] = 100.0
    with pytest.raises(ValueError, match=r"sample|outputs differ|vmap"):
        fisher_diagonal(model, TensorDataset(x), batch_size=8, path=path)


@pytest.mark.parametrize("how", ["mean", "attention", "later"])
def test_gradients_of_batch_means_allow_samples_that_feel_each_other(how):
    torch.manual_seed(0)
    model, x, y = Centred(how), torch.randn(24, 4), torch.arange(24) % 3
    got = fisher_diagonal(model, TensorDataset(x, y), variant="batched", batch_size=8)
    assert all(value.any() for value in got.values())


def test_gradients_alone_that_mix():
    """The outputs are those of each sample alone, but a gradient runs through the mean of the batch."""

    class Hidden(Centred):
        def forward(self, x):
            h = self.net[1](self.net[0](x))
            mean = h.mean(0)
            return self.net[2](h + (mean - mean.detach()))

    torch.manual_seed(0)
    model, x = Hidden(""), torch.randn(12, 4)
    want = expected(model, x)
    assert_right_or_refused(lambda: fisher_diagonal(model, TensorDataset(x)), want)
