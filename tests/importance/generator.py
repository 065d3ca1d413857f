"""Random models with data and options of a pass: a :class:`Spec` builds the same ones each time, and is its own recipe.

A model is a chain of blocks over images, then over sequences, then over vectors. Each block is a small module with
a trap of its own; what a block does to the promise of an importance (it draws, it mixes samples, its eval mode has
no graph) is a trait of its own.
"""

import dataclasses
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, rnn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests import oracles

WIDTH = 4
"""Features of a vector and of a token, channels of an image."""

SIDE = 3
"""Rows and columns of an image."""

WORDS = 5
"""Tokens are below this."""

IGNORED = -100
"""The target of a position that does not count."""

BLOCKS: dict[str, dict[str, type["Block"]]] = {"image": {}, "sequence": {}, "vector": {}}


class Block(nn.Module):
    """A part that maps ``(N, 4, 3, 3)``, ``(N, T, 4)`` or ``(N, 4)`` to the same shape; its class names it.

    Traits:
        draws: forward draws random numbers in eval mode.
        trains: the parameters have a gradient in training mode alone, by a ``train`` of its own.
        drops: forward draws in training mode of the module itself.
        mixes: outputs of a sample depend on the others of its batch.
        keeps: outputs depend on what an earlier forward left behind.
        rounds: computes in bfloat16 unless ``exactly``.
    """

    traits: frozenset[str] = frozenset()
    layer_of: Callable[[], nn.Module] | None = None

    def __init_subclass__(cls, on: str = "", traits: str = "", layer: Callable[[], nn.Module] | None = None) -> None:
        super().__init_subclass__()
        cls.traits = cls.traits | frozenset(traits.split())
        if layer:
            cls.layer_of = staticmethod(layer)
        for stage in ("image", "sequence", "vector") if on == "any" else on.split():
            BLOCKS[stage][cls.__name__] = cls

    def __init__(self) -> None:
        super().__init__()
        self.make()

    def make(self) -> None:
        """Add the parts."""
        if self.layer_of:
            self.layer = self.layer_of()

    def forward(self, x: Tensor) -> Tensor:
        """Of the layer, unless said otherwise."""
        return self.layer(x)

    def exactly(self) -> None:
        """Compute without rounding from now on: what the reference does."""


def line(outputs: int = WIDTH, inputs: int = WIDTH, **options: Any) -> nn.Linear:
    return nn.Linear(inputs, outputs, **options)


# ---------------------------------------------------------------- pointwise


class Tanh(Block, on="any"):
    def forward(self, x):
        return x.tanh()


class InPlace(Block, on="any"):
    def forward(self, x):
        return F.silu((x + 0.1).mul_(1.5), inplace=True)


class Relu(Block, on="any"):
    def forward(self, x):
        return F.leaky_relu(x, 0.2)


class Drop(Block, on="any"):
    def make(self):
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(x)


class DropOfItsOwn(Block, on="any", traits="drops"):
    def forward(self, x):
        return F.dropout(x, 0.5, self.training)


class Scalars(Block, on="any"):
    """Bare parameters without dimensions, one of them unused."""

    def make(self):
        self.gain, self.shift = nn.Parameter(torch.tensor(1.3)), nn.Parameter(torch.tensor(0.4))
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return (x + self.shift) * self.gain


class PReLU(Block, on="any", layer=nn.PReLU):
    pass


class HalfDetached(Block, on="any"):
    def forward(self, x):
        return x + x.detach().tanh()


# ------------------------------------------------------------------ vectors


class Linear(Block, on="vector sequence", layer=line):
    pass


class LinearWithoutBias(Linear, on="vector sequence", layer=lambda: line(bias=False)):
    pass


class Mlp(Block, on="vector sequence"):
    def make(self):
        self.net = nn.Sequential(line(6), nn.ReLU(inplace=True), nn.Sequential(line(4, 6), nn.ELU(inplace=True)))

    def forward(self, x):
        return self.net(x)


class ByKeyword(Linear, on="vector sequence"):
    def forward(self, x):
        return self.layer(input=x)


class Overwritten(Linear, on="vector sequence"):
    """The layer's output is changed in place, a feature of it for good."""

    def forward(self, x):
        h = self.layer(x).mul_(0.5)
        h[..., 1] = 2.0
        return F.silu(h, inplace=True)


class Functional(Block, on="vector sequence"):
    """Weights without a layer."""

    def make(self):
        self.weight, self.bias = nn.Parameter(torch.randn(4, 4) / 2), nn.Parameter(torch.randn(4))

    def forward(self, x):
        return F.linear(x, self.weight, self.bias).tanh() @ self.weight.t()


class BilinearForm(Block, on="vector sequence", layer=lambda: nn.Bilinear(4, 4, 4)):
    def forward(self, x):
        return self.layer(x, x.tanh())


class Gains(Block, on="vector sequence"):
    """Bare parameters by feature, added, multiplied and expanded."""

    def make(self):
        self.gain, self.shift = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(1, 4))
        self.twice = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return torch.add(x * self.gain - self.shift.expand(x.shape[-2], 4), self.twice, alpha=2)


class LayerNorm(Block, on="vector sequence", layer=lambda: nn.LayerNorm(4)):
    pass


class RMSNorm(Block, on="vector sequence", layer=lambda: nn.RMSNorm(4)):
    pass


class Groups(Block, on="vector image", layer=lambda: nn.GroupNorm(1, 4)):
    pass


class BatchNorm(Block, on="vector", layer=lambda: nn.BatchNorm1d(4)):
    pass


class BatchNormFrozenByItself(BatchNorm, on="vector"):
    def train(self, mode: bool = True):
        super().train(mode)
        self.layer.eval()
        return self


class CalledTwice(Linear, on="vector sequence"):
    def forward(self, x):
        return self.layer(self.layer(x).tanh())


class Tied(Linear, on="vector sequence"):
    def forward(self, x):
        return F.linear(self.layer(x).tanh(), self.layer.weight.t())


class TiedModules(Block, on="vector sequence"):
    def make(self):
        self.first, self.second = line(), line()
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).tanh())


class Residual(Block, on="vector sequence"):
    def make(self):
        self.first, self.second = line(3), line(4, 3)

    def forward(self, x):
        h = self.second(self.first(x).relu_())
        h += x
        return h


class Branches(Block, on="vector sequence"):
    """Containers, one of them within another."""

    def make(self):
        self.branches = nn.ModuleDict({"a": line(), "b": nn.Sequential(nn.Tanh(), line())})
        self.more = nn.ModuleList([nn.ModuleList([line()])])
        self.gains = nn.ParameterList([torch.ones(4), torch.randn(4)])

    def forward(self, x):
        return self.branches["a"](x) * self.gains[1] + self.branches["b"](x) - self.more[0][0](x).tanh()


class Checkpointed(Mlp, on="vector sequence"):
    def forward(self, x):
        return checkpoint(self.net, x, use_reentrant=False)


class Double(torch.autograd.Function):
    """Not for vmap."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


class NotForVmap(Gains, on="vector sequence"):
    def forward(self, x):
        return Double.apply(super().forward(x))


class Spectrum(Block, on="vector sequence"):
    def make(self):
        self.filter = nn.Parameter(torch.randn(3))

    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(x) * self.filter, n=4)


class LinearOfReversedRows(Linear, on="vector sequence"):
    """Row n holds another sample."""

    def forward(self, x):
        return self.layer(x.flip(0)).flip(0)


class LinearOfSortedRows(Linear, on="vector"):
    def forward(self, x):
        order = x[:, 0].argsort()
        return torch.zeros_like(x).index_copy(0, order, self.layer(x[order]).tanh())


class LinearOfSomeRows(Linear, on="vector"):
    """A boolean mask: samples without a positive first entry pass by."""

    def forward(self, x):
        chosen, out = x[:, 0] > 0, x.clone()
        out[chosen] = self.layer(x[chosen]).tanh()
        return out


class LinearOfRepeatedRows(Linear, on="vector"):
    """Samples with a positive first entry come twice, others never: often as many rows as samples."""

    def forward(self, x):
        chosen = (x[:, 0] > 0).nonzero().flatten().repeat_interleave(2)
        weights = torch.tensor([0.5, 1.5], dtype=x.dtype).repeat(len(chosen) // 2)[:, None]
        return x.index_add(0, chosen, self.layer(x[chosen] * weights).tanh())


class LinearOfRowsInTurn(Linear, on="vector"):
    """One call a sample."""

    def forward(self, x):
        return torch.cat([self.layer(row) for row in x.split(1)])


class OneOrTheOther(Block, on="vector"):
    """Control flow by sample."""

    def make(self):
        self.first, self.second = line(), line()

    def forward(self, x):
        return torch.stack([self.first(row) if row[0] > 0 else self.second(row).tanh() for row in x])


class Experts(Block, on="vector sequence"):
    """Each row goes to one expert."""

    def make(self):
        self.gate, self.experts = line(3), nn.ModuleList(line() for _ in range(3))

    def forward(self, x):
        rows = x.reshape(-1, 4)
        scores, chosen = self.gate(rows).softmax(dim=1).max(dim=1)
        out = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            mine = (chosen == number).nonzero().flatten()
            out = out.index_copy(0, mine, expert(rows[mine]).tanh() * scores[mine, None])
        return out.view(x.shape)


class ExpertsWithSlots(Experts, on="vector sequence"):
    """Each expert has as many slots as there are samples, or as rows if it needs them; rows fill them in order."""

    def slots(self, x: Tensor, needed: int) -> int:
        return max(len(x), needed)

    def forward(self, x):
        rows = x.reshape(-1, 4)
        chosen = self.gate(rows).argmax(dim=1)
        weights = self.gate(rows).softmax(dim=1)
        out = rows.clone()
        for number, expert in enumerate(self.experts):
            mine = (chosen == number).nonzero().flatten()
            mine = mine[: self.slots(x, len(mine))]
            held = torch.zeros(self.slots(x, len(mine)), 4, dtype=x.dtype)
            held[: len(mine)] = rows[mine]
            done = expert(held).tanh()[: len(mine)]
            out = out.index_add(0, mine, done * weights[mine, number, None])
        return out.view(x.shape)


class ExpertsThatOverflow(ExpertsWithSlots, on="vector sequence", traits="mixes"):
    """Two slots an expert: whether a row finds one depends on the rows before it."""

    def slots(self, x, needed):
        return 2


class CentredOverTheBatch(Linear, on="vector", traits="mixes"):
    def forward(self, x):
        return self.layer(x - x.mean(0))


class BatchNormOfTheBatch(
    BatchNorm, on="vector", traits="mixes", layer=lambda: nn.BatchNorm1d(4, track_running_stats=False)
):
    pass


class BranchByTheBatch(OneOrTheOther, on="vector", traits="mixes"):
    def forward(self, x):
        return self.first(x) if x.sum() > 0 else self.second(x).tanh()


# ------------------------------------------------------ what forward leaves


class KeepsFeatures(Gains, on="vector sequence"):
    def make(self):
        super().make()
        self.features = None

    def forward(self, x):
        x = super().forward(x)
        self.features = x.detach()
        return x


class KeepsFeaturesWithGraph(KeepsFeatures, on="vector sequence"):
    def forward(self, x):
        self.features = super(KeepsFeatures, self).forward(x)
        return self.features.tanh()


class AppendsToContainers(Gains, on="vector sequence"):
    def make(self):
        super().make()
        self.log = {"features": [], "shapes": {"seen": set(), "last": (None, [0])}}

    def forward(self, x):
        x = super().forward(x)
        self.log["features"].append(x.detach())
        self.log["shapes"]["seen"].add(tuple(x.shape))
        self.log["shapes"]["last"][1][0] += 1
        self.log["shapes"].setdefault("new", []).append(x)
        return x


class CountsCalls(Gains, on="vector sequence"):
    def make(self):
        super().make()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.seen = 0

    def forward(self, x):
        self.calls += 1
        self.seen += len(x)
        return super().forward(x)


class AssignsABuffer(Gains, on="vector sequence"):
    def make(self):
        super().make()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        x = super().forward(x)
        self.mean = 0.9 * self.mean + 0.1 * x.detach().reshape(-1, 4).mean(0)
        return x


class WritesIntoABuffer(AssignsABuffer, on="vector sequence"):
    def forward(self, x):
        x = super(AssignsABuffer, self).forward(x)
        self.mean.mul_(0.9).add_(x.detach().reshape(-1, 4).mean(0), alpha=0.1)
        return x


class MakesItsParts(Gains, on="vector sequence"):
    """Attributes, a buffer and a hook that the first forward adds."""

    def forward(self, x):
        if not hasattr(self, "positions"):
            self.register_buffer("positions", torch.arange(4), persistent=False)
            self.register_forward_hook(_as_it_is)
        return super().forward(x) + self.positions


def _as_it_is(module: nn.Module, args: tuple, output: Tensor) -> None:
    module.last_shape = tuple(output.shape)


class ObservedByHooks(Linear, on="vector sequence"):
    """Hooks of the user's: one scales the output, one looks at gradients."""

    def make(self):
        super().make()
        self.seen = []
        self.layer.register_forward_hook(_scaled)
        self.register_full_backward_hook(_seen)


def _scaled(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    return output * 1.5


def _seen(module: nn.Module, grad_input: tuple, grad_output: tuple) -> None:
    module.seen.append(len(grad_output))


class GradientHook(Linear, on="vector sequence"):
    """A hook on a weight's gradient freezes a row."""

    def make(self):
        super().make()
        self.layer.weight.register_hook(_without_first_row)


def _without_first_row(gradient: Tensor) -> Tensor:
    return gradient * (torch.arange(4)[:, None] > 0)


class RemembersItsState(Block, on="sequence", traits="keeps"):
    def make(self):
        self.lstm, self.state = nn.LSTM(4, 4, batch_first=True), None

    def forward(self, x):
        out, state = self.lstm(x, self.state)
        self.state = tuple(part.detach() for part in state)
        return out


class GrowsWithCalls(CountsCalls, on="vector", traits="keeps"):
    def forward(self, x):
        return super().forward(x) * (1 + 0.1 * self.calls.to(x.dtype))


# --------------------------------------------------- weights made of others


def _quietly(make: Callable[..., nn.Module], *args: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(*args)


class Pruned(Linear, on="vector sequence", layer=lambda: prune.l1_unstructured(line(), "weight", amount=5)):
    pass


class OldWeightNorm(Linear, on="vector sequence"):
    def make(self):
        self.layer = _quietly(nn.utils.weight_norm, line())


class WeightNorm(Linear, on="vector sequence", layer=lambda: parametrizations.weight_norm(line())):
    pass


class OldSpectralNorm(Linear, on="vector"):
    def make(self):
        self.layer = _quietly(nn.utils.spectral_norm, line())


class SpectralNorm(Linear, on="vector sequence", layer=lambda: parametrizations.spectral_norm(line())):
    pass


# -------------------------------------------------------- modes and numbers


class MergedInEval(Block, on="vector sequence", traits="trains"):
    """As LoRA does: a low-rank change of a frozen weight is added to it in eval mode."""

    def make(self):
        self.base, self.merged = line(), False
        self.base.weight.requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(2, 4) / 2), nn.Parameter(torch.randn(4, 2) / 2)

    def train(self, mode: bool = True):
        super().train(mode)
        if mode == self.merged:
            self.base.weight.data += (-1 if mode else 1) * (self.b @ self.a).detach()
            self.merged = not mode
        return self

    def forward(self, x):
        change = 0 if self.merged else x @ self.a.t() @ self.b.t()
        return self.base(x) + change


class WithoutGraphInEval(Linear, on="vector", traits="trains"):
    """As iCaRL's model does: eval mode classifies by distances to means."""

    def make(self):
        super().make()
        self.register_buffer("means", torch.randn(4, 4))
        self.by_means = False

    def train(self, mode: bool = True):
        super().train(mode)
        self.by_means = not mode
        return self

    def forward(self, x):
        return -torch.cdist(x.detach(), self.means) if self.by_means else self.layer(x)


class CountsModes(Linear, on="vector sequence"):
    def make(self):
        super().make()
        self.switched = []

    def train(self, mode: bool = True):
        self.switched.append(mode)
        return super().train(mode)


class DoublePart(Linear, on="vector sequence", layer=lambda: line().double()):
    """float64 within the model."""

    def forward(self, x):
        return self.layer(x.double()).tanh().to(x.dtype)


class Autocast(Mlp, on="vector sequence", traits="rounds"):
    enabled = True

    def make(self):
        self.net = nn.Sequential(line(6), nn.Tanh(), line(4, 6))

    def exactly(self):
        self.enabled = False

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.enabled):
            return self.net(x).to(x.dtype)


class Bfloat16Part(Linear, on="vector sequence", traits="rounds", layer=lambda: line().bfloat16()):
    def forward(self, x):
        return self.layer(x.to(self.layer.weight.dtype)).to(x.dtype).tanh()


# -------------------------------------------------------------------- draws


class DrawsFromTorch(Gains, on="vector sequence", traits="draws"):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.3, training=True)


class DrawsFromNumpy(Gains, on="vector sequence", traits="draws"):
    def forward(self, x):
        return super().forward(x) * torch.from_numpy(np.random.uniform(size=(len(x), *[1] * (x.ndim - 1)))).to(x)


class DrawsFromPython(Gains, on="vector sequence", traits="draws"):
    def forward(self, x):
        return super().forward(x) * random.random()


class DrawsFromItsOwn(Gains, on="vector sequence", traits="draws"):
    """Generators that the module holds."""

    def make(self):
        super().make()
        self.tools = {"torch": torch.Generator().manual_seed(1), "numpy": np.random.default_rng(1)}

    def forward(self, x):
        noise = torch.randn(x.shape, generator=self.tools["torch"]) + self.tools["numpy"].normal()
        return super().forward(x) + noise.to(x)


class BayesianWeights(Linear, on="vector", traits="draws"):
    """Weights drawn for the batch, by their means and deviations."""

    def make(self):
        self.mean, self.deviation = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.rand(4, 4))

    def forward(self, x):
        return x @ (self.mean + self.deviation * torch.randn_like(self.mean))


# ---------------------------------------------------------------- sequences


class TokensInTheBatch(Linear, on="sequence"):
    def forward(self, x):
        return self.layer(x.reshape(-1, 4)).tanh().view(x.shape)


class TokensFirst(Linear, on="sequence"):
    def forward(self, x):
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


class LayerNormOfTokensFirst(LayerNorm, on="sequence"):
    def forward(self, x):
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


class Unpadded(Linear, on="sequence"):
    """Tokens without a positive first entry are left out."""

    def forward(self, x):
        where = (x[..., 0] > 0).nonzero()
        rows = self.layer(x[where[:, 0], where[:, 1]]).tanh()
        return x + torch.zeros(len(x), 4, dtype=x.dtype).index_add(0, where[:, 0], rows)[:, None]


class Masked(Linear, on="sequence"):
    def forward(self, x):
        held = x[..., 0] > 0
        return x.masked_scatter(held[..., None], self.layer(x[held]))


class BestToken(Linear, on="sequence"):
    """The largest token of each sample alone."""

    def forward(self, x):
        best = x[..., 0].argmax(dim=1)
        return x + self.layer(x[torch.arange(len(x)), best]).tanh()[:, None]


class SortedTokens(Linear, on="sequence"):
    def forward(self, x):
        order = x[..., :1].argsort(dim=1).expand_as(x)
        return self.layer(x.gather(1, order)).tanh()


class Positions(Block, on="sequence"):
    """A layer on what is no sample, and a sum with a row for each token."""

    def make(self):
        self.table, self.layer = nn.Embedding(16, 4), line()
        self.each = nn.Parameter(torch.randn(16, 4) / 2)

    def forward(self, x):
        return x + self.layer(self.table(torch.arange(x.shape[1]))).tanh() + self.each[: x.shape[1]]


class ClassToken(Block, on="sequence"):
    def make(self):
        self.token, self.layer = nn.Parameter(torch.randn(1, 1, 4)), line()

    def forward(self, x):
        return self.layer(torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)).tanh()[:, :-1]


class Convolution(Block, on="sequence", layer=lambda: nn.Conv1d(4, 4, 3, padding=1)):
    def forward(self, x):
        return self.layer(x.transpose(1, 2)).transpose(1, 2)


class GroupedConvolution(
    Convolution, on="sequence", layer=lambda: nn.Conv1d(4, 4, 3, padding="same", groups=2, dilation=2, bias=False)
):
    pass


class CircularConvolution(
    Convolution, on="sequence", layer=lambda: nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular")
):
    pass


class ConvolutionOfOneSequence(Block, on="sequence", layer=lambda: nn.Conv1d(4, 4, 1)):
    """The whole batch as one sequence without a sample dimension, samples kept apart by the kernel's size."""

    def forward(self, x):
        return self.layer(x.reshape(-1, 4).t()).t().reshape(x.shape)


class BatchNormOfTokens(Block, on="sequence", layer=lambda: nn.BatchNorm1d(4)):
    def forward(self, x):
        return self.layer(x.transpose(1, 2)).transpose(1, 2)


class GroupNormOfTokens(BatchNormOfTokens, on="sequence", layer=lambda: nn.GroupNorm(2, 4)):
    pass


class InstanceNorm(BatchNormOfTokens, on="sequence", layer=lambda: nn.InstanceNorm1d(4, affine=True)):
    pass


class InstanceNormWithStatistics(
    BatchNormOfTokens, on="sequence", layer=lambda: nn.InstanceNorm1d(4, affine=True, track_running_stats=True)
):
    pass


class SoftmaxAttention(Block, on="sequence"):
    """A key layer's bias has no gradient: one number is added to all scores of a query."""

    def make(self):
        self.query, self.key, self.value = line(), line(), line()

    def forward(self, x):
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 2
        return scores.softmax(dim=-1) @ self.value(x)


class FusedAttention(Block, on="sequence"):
    def make(self):
        self.parts, self.out = line(12), line()

    def forward(self, x):
        q, k, v = (part.unflatten(2, (2, 2)).transpose(1, 2) for part in self.parts(x).chunk(3, dim=-1))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Attention(Block, on="sequence", layer=lambda: nn.MultiheadAttention(4, 2, batch_first=True)):
    def forward(self, x):
        return self.layer(x, x, x, need_weights=False)[0]


class AttentionWithBiases(
    Attention,
    on="sequence",
    layer=lambda: nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=True, add_zero_attn=True),
):
    pass


class AttentionOfTokensFirst(Attention, on="sequence", layer=lambda: nn.MultiheadAttention(4, 2)):
    def forward(self, x):
        x = x.transpose(0, 1)
        return self.layer(x, x, x)[0].transpose(0, 1)


class CrossAttention(Attention, on="sequence"):
    def forward(self, x):
        return x + self.layer(x[:, :1], x, x.tanh(), need_weights=False)[0]


class AttentionOverSamples(Attention, on="sequence", traits="mixes", layer=lambda: nn.MultiheadAttention(4, 2)):
    """Tokens first, by mistake: a sample attends to the others."""


class AttentionOfSome(Attention, on="sequence"):
    """Samples without a positive first entry pass by."""

    def forward(self, x):
        chosen = (x[:, 0, 0] > 0).nonzero().flatten()
        return x if not len(chosen) else x.index_add(0, chosen, super().forward(x[chosen]))


class MaskedAttention(Attention, on="sequence"):
    """Tokens without a positive first entry, the first one apart, are no keys."""

    def forward(self, x):
        absent = (x[..., 0] <= 0) & (torch.arange(x.shape[1]) > 0)
        return self.layer(x, x, x, key_padding_mask=absent, need_weights=False)[0]


class Encoder(
    Block,
    on="sequence",
    layer=lambda: nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, batch_first=True, norm_first=True),
):
    pass


class Gru(Block, on="sequence", layer=lambda: nn.GRU(4, 4, batch_first=True)):
    def forward(self, x):
        return self.layer(x)[0]


class Lstm(
    Gru, on="sequence", layer=lambda: nn.LSTM(4, 2, batch_first=True, bidirectional=True, num_layers=2, dropout=0.3)
):
    pass


class TokensFirstRnn(Gru, on="sequence", layer=lambda: nn.RNN(4, 4)):
    def forward(self, x):
        return self.layer(x.transpose(0, 1))[0].transpose(0, 1)


class Cells(Block, on="sequence"):
    """A layer is called once a token."""

    def make(self):
        self.cell, self.inner = nn.GRUCell(4, 4), line()

    def forward(self, x):
        states, state = [], torch.zeros_like(x[:, 0])
        for token in x.unbind(dim=1):
            state = self.inner(self.cell(token, state))
            states.append(state)
        return torch.stack(states, dim=1)


class Packed(Gru, on="sequence"):
    """Lengths come from the data, samples are sorted by them."""

    def forward(self, x):
        lengths = 1 + (x[:, 1:, 0] > 0).sum(dim=1)
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True, total_length=x.shape[1])[0]


class LinearOfPacked(Linear, on="sequence"):
    """The layer sees the tokens of a packed sequence, ordered by time."""

    def forward(self, x):
        lengths = 1 + (x[:, 1:, 0] > 0).sum(dim=1)
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        packed = packed._replace(data=self.layer(packed.data).tanh())
        return rnn.pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])[0]


# ------------------------------------------------------------------- images


def settled(x: Tensor) -> Tensor:
    """The same, with a gradient that is contiguous.

    Of a batch of one image PyTorch 2.15 on a CPU differentiates batch and instance norm wrongly if the gradient lies
    with its channels last; one sample at a time would then be no reference.
    """
    return torch.cat([x[:, :2], x[:, 2:]], dim=1)


class Conv2d(Block, on="image", layer=lambda: nn.Conv2d(4, 4, 3, padding=1)):
    pass


class DepthwiseConv2d(
    Conv2d, on="image", layer=lambda: nn.Conv2d(4, 4, 3, padding=2, groups=4, dilation=2, bias=False)
):
    pass


class ReflectedConv2d(
    Conv2d, on="image", layer=lambda: nn.Conv2d(4, 4, 3, padding=(1, 1), padding_mode="reflect", groups=2)
):
    pass


class StridedConv2d(Conv2d, on="image", layer=lambda: nn.Conv2d(4, 4, 3, padding=1, stride=2)):
    """Every second position, then back to the size."""

    def forward(self, x):
        return F.interpolate(self.layer(x), size=x.shape[2:])


class TransposedConv2d(Block, on="image", layer=lambda: nn.ConvTranspose2d(4, 4, 2)):
    def forward(self, x):
        return F.max_pool2d(self.layer(x), 2, stride=1)


class ResidualConv2d(Block, on="image"):
    def make(self):
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)

    def forward(self, x):
        h = settled(self.norm(self.conv(x)))
        h += x
        return F.silu(h, inplace=True)


class ConvBeforeInstanceNorm(Block, on="image"):
    """The bias of the convolution has no gradient."""

    def make(self):
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.InstanceNorm2d(4, affine=True)

    def forward(self, x):
        return settled(self.norm(self.conv(x)))


class BatchNorm2d(Block, on="image", layer=lambda: nn.BatchNorm2d(4)):
    def forward(self, x):
        return settled(self.layer(x))


class LayerNormOfImages(Block, on="image", layer=lambda: nn.LayerNorm([4, SIDE, SIDE])):
    pass


class ChannelGains(Block, on="image"):
    def make(self):
        self.gain, self.shift = nn.Parameter(torch.randn(4, 1, 1)), nn.Parameter(torch.randn(1, 4, 1, 1))

    def forward(self, x):
        return x * self.gain + self.shift


class ChannelsLast(Linear, on="image"):
    def forward(self, x):
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PixelsInTheBatch(Linear, on="image"):
    def forward(self, x):
        rows = self.layer(x.permute(0, 2, 3, 1).reshape(-1, 4)).tanh()
        return rows.view(len(x), SIDE, SIDE, 4).permute(0, 3, 1, 2)


class ColumnsInTheBatch(Block, on="image", layer=lambda: nn.Conv1d(4, 4, 3, padding=1)):
    """A convolution over rows, columns standing in the batch."""

    def forward(self, x):
        columns = self.layer(x.permute(0, 3, 1, 2).reshape(-1, 4, SIDE))
        return columns.view(len(x), SIDE, 4, SIDE).permute(0, 2, 3, 1)


# --------------------------------------------------------------- the model

EMBEDDINGS = {
    "plain": {},
    "padded": {"padding_idx": 0},
    "sparse": {"sparse": True},
    "by frequency": {"scale_grad_by_freq": True},
    "renormed": {"max_norm": 1.0},
}


class Net(nn.Module):
    """The blocks of a spec, what leads from one kind to the next, and a head."""

    def __init__(self, spec: "Spec") -> None:
        super().__init__()
        self.spec = spec
        if spec.embedding:
            self.embed = nn.Embedding(WORDS, WIDTH, **EMBEDDINGS[spec.embedding])
        shared: dict[str, Block] = {}
        self.blocks = nn.ModuleDict()
        for stage in ("image", "sequence", "vector"):
            made = [BLOCKS[stage][name]() for name in getattr(spec, stage)]
            if spec.shared:
                made = [shared.setdefault(type(block).__name__, block) for block in made]
            self.blocks[stage] = nn.ModuleList(made)
        if spec.pool == "flatten":
            self.project = nn.Linear(spec.tokens * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs to outputs."""
        spec = self.spec
        if spec.fault == "forward":
            Broken.forwards += 1
            if Broken.forwards > 1:
                raise Broken("the second forward pass fails")
        if spec.embedding:
            x = self.embed(x)
        for block in self.blocks["image"]:
            x = block(x)
        if x.ndim == 4:
            x = x.flatten(2).transpose(1, 2)
        for block in self.blocks["sequence"]:
            x = block(x)
        if x.ndim == 3 and spec.pool != "none":
            x = self.project(x.flatten(1)) if spec.pool == "flatten" else x[:, -1] if spec.pool == "last" else x.mean(1)
        for block in self.blocks["vector"]:
            x = block(x)
        z = self.head(x)
        if spec.pool == "none" and spec.classes_second:
            z = z.transpose(1, 2)
        return z.squeeze(1) if spec.squeezed and z.shape[1] == 1 else z


FISHER = ("exact", "empirical", "predicted", "sample", "batched")
MAS = ("squared_norm", "mean_square", "vector", "batch mean")
LIKELIHOODS = ("categorical", "gaussian", "bernoulli")
FORMS = ("dataset", "loader", "shuffled", "mapping", "unpack", "unlabelled")
FAULTS = ("data", "labels", "forward")


@dataclass(frozen=True, repr=False)
class Spec:
    """A model, its data, what is measured and how: all of it small, all of it determined by these fields."""

    vector: tuple[str, ...] = ()
    sequence: tuple[str, ...] = ()
    image: tuple[str, ...] = ()
    embedding: str = ""
    length: int = 3
    pool: str = "mean"
    """What becomes of tokens before vectors: "mean", "last", "flatten", or "none", which leaves them in the output."""
    classes_second: bool = False
    squeezed: bool = False
    outputs: int = 3
    shared: bool = False
    """Blocks of the same name are the same module."""
    frozen: int = 0
    """Every so manieth parameter is frozen."""
    double: bool = True
    seed: int = 0

    samples: int = 6
    batch: int = 3
    regular: int = 0
    """So many samples come first, of which the routing blocks see one row each."""
    ignored: bool = False
    form: str = "loader"
    first: int | None = None

    measure: str = "exact"
    likelihood: str = "categorical"
    draws: int = 1
    max_bytes: int = 2**30
    path: str = "auto"

    training: str = "train"
    around: str = ""
    gradients: bool = False
    fault: str = ""

    def __repr__(self) -> str:
        changed = (f for f in dataclasses.fields(self) if getattr(self, f.name) != f.default)
        return f"Spec({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in changed)})"

    # ---------------------------------------------------------------- traits

    @property
    def tokens(self) -> int:
        """Length of the sequence that is pooled."""
        return SIDE**2 if self.image else self.length if self.is_sequence else 1

    @property
    def is_sequence(self) -> bool:
        """Whether there is a sequence somewhere."""
        return bool(self.image or self.sequence or self.embedding)

    @property
    def traits(self) -> frozenset[str]:
        """Those of all blocks."""
        names = [BLOCKS[stage][name] for stage in ("image", "sequence", "vector") for name in getattr(self, stage)]
        return frozenset().union(*(block.traits for block in names))

    @property
    def batchwise(self) -> bool:
        """Whether batches are what is measured."""
        return self.measure in ("batched", "batch mean")

    @property
    def power(self) -> int:
        """p of the importance."""
        return 1 if self.measure in MAS else 2

    # ----------------------------------------------------------------- parts

    def model(self) -> nn.Module:
        """The model, the same each time, as a user hands it over."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            net = Net(self)
            _shake(net)
        doubles = [m for m in net.modules() if isinstance(m, DoublePart)]
        halves = [m for m in net.modules() if isinstance(m, Bfloat16Part)]
        if self.double:
            net.double()
            for module in halves:
                module.layer.bfloat16()
        for module in doubles:
            module.double()
        parameters = [p for p in net.parameters() if p.requires_grad]
        for number, p in enumerate(parameters):
            if self.frozen and (number + self.seed) % self.frozen == 0:
                p.requires_grad_(False)
            elif self.gradients:
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(number)).to(p)
        net.train(self.training != "eval")
        if self.training == "mixed":
            for number, module in enumerate(_of_torch(net)):
                module.training = bool(number % 2)
        return net

    def _measured(self, exactly: bool) -> nn.Module:
        """The model in the mode that counts; ``exactly``: the same weights, in float64 and without autocast."""
        net = self.model()
        if exactly:
            net.double()
            for block in net.modules():
                if isinstance(block, Block):
                    block.exactly()
        net.train("trains" in self.traits)
        for module in _of_torch(net):
            module.training = False
        return net

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Inputs, and targets that fit the outputs."""
        generator = torch.Generator().manual_seed(self.seed)
        n = self.samples
        if self.embedding:
            x = torch.randint(0, WORDS, (n, self.length), generator=generator)
        else:
            shape = (WIDTH, SIDE, SIDE) if self.image else (self.length, WIDTH) if self.sequence else (WIDTH,)
            x = torch.randn(n, *shape, generator=generator)
            rows = x.flatten(2).transpose(1, 2) if self.image else x if self.sequence else x[:, None]
            sign = torch.where(torch.arange(rows.shape[1]) == 0, 1.0, -1.0)
            rows[: self.regular, :, 0] = sign * rows[: self.regular, :, 0].abs()
            x = x.double() if self.double else x
        positions = (self.tokens,) if self.pool == "none" else ()
        if self.likelihood == "categorical":
            y = torch.randint(0, self.outputs, (n, *positions), generator=generator)
            if self.ignored:
                out = torch.rand(y.shape, generator=generator) < 0.4
                out.view(-1)[0] = False
                y[out] = IGNORED
        else:
            shape = (n, self.outputs, *positions) if self.classes_second else (n, *positions, self.outputs)
            y = torch.randn(shape, generator=generator)
            y = y.squeeze(1) if self.squeezed and y.shape[1] == 1 else y
            y = (y > 0).to(y) if self.likelihood == "bernoulli" else y
        return x, y

    def data(self) -> Dataset | DataLoader:
        """The data in its form."""
        x, y = self.tensors()
        if self.fault == "labels":
            y = torch.full_like(y, 99) if self.likelihood == "categorical" else torch.stack([y, y], dim=-1)
        samples: Dataset = TensorDataset(x) if self.form == "unlabelled" else TensorDataset(x, y)
        if self.form == "mapping":
            samples = _Mappings(x, y)
        if self.form == "unpack":
            samples = TensorDataset(x, torch.ones(len(x), dtype=torch.long), y)
        if self.fault == "data":
            samples = _BrokenAtTheEnd(samples)
        if self.form == "dataset":
            return samples
        generator = torch.Generator().manual_seed(3) if self.form == "shuffled" else None
        return DataLoader(samples, batch_size=self.batch, shuffle=self.form == "shuffled", generator=generator)

    def options(self) -> dict[str, Any]:
        """Those of the call, without those that have their default."""
        found: dict[str, Any] = {"max_bytes": self.max_bytes, "path": self.path}
        if self.first is not None:
            found["n_samples"] = self.first
        if self.form == "dataset":
            found["batch_size"] = self.batch
        if self.form == "unpack":
            found["unpack"] = _first_and_last
        if self.measure in MAS:
            found["output"] = "squared_norm" if self.measure == "batch mean" else self.measure
            found["per_sample"] = self.measure != "batch mean"
            return found
        found |= {"variant": self.measure, "likelihood": self.likelihood, "draws": self.draws}
        if self.pool == "none" and not self.classes_second:
            found["class_dim"] = -1
        return found

    # ------------------------------------------------------------- reference

    def reference(self, *, exactly: bool = True) -> "Reference":
        """What is to come out: one sample (of batchwise measures, one batch) at a time, and plain autograd.

        ``exactly``: in float64, or as the model rounds. Of "sample", whose labels are drawn, there is none.
        """
        model = self._measured(exactly)
        x, y = self.tensors()
        n = len(x) if self.first is None else min(self.first, len(x))
        dtype = torch.float64 if exactly or self.double else torch.float32
        size = self.batch if self.batchwise else 1
        total = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in model.named_parameters()}
        reached, terms = False, 0
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            model = self._measured(exactly) if "keeps" in self.traits else model
            with oracles.default_dtype(dtype):
                z = model(x[rows].to(dtype) if x.is_floating_point() else x[rows])
            reached |= z.requires_grad
            if self.measure in MAS or self.likelihood != "categorical" or (y[rows] != IGNORED).any():
                terms += 1
                for name, value in self._moments(model, z, y[rows]).items():
                    total[name] += value
        trainable = any(p.requires_grad for p in model.parameters())
        return Reference({name: value / terms for name, value in total.items()}, trainable, reached or not trainable)

    def _moments(self, model: nn.Module, z: Tensor, y: Tensor) -> oracles.Tensors:
        squares = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in model.named_parameters()}
        for weight, v in self._cotangents(z.detach().double(), y):
            for name, g in _pulled_back(model, z, v.to(z.dtype) / len(z)).items():
                squares[name] += weight * g**2
        return squares if self.power == 2 else {name: s.sqrt() for name, s in squares.items()}

    def _cotangents(self, z: Tensor, y: Tensor) -> Iterator[tuple[float, Tensor]]:
        """(weight, gradient of log-likelihood or output norm at z) for each target of z or each output."""
        if self.measure in MAS:
            if self.measure == "vector":
                yield from ((1.0, v) for v in torch.eye(z.numel(), dtype=z.dtype).view(-1, *z.shape))
            else:
                yield 1.0, 2 * z / (z.numel() if self.measure == "mean_square" else 1)
            return
        if self.likelihood == "gaussian":
            if self.measure == "exact":
                yield from ((1.0, v) for v in torch.eye(z.numel(), dtype=z.dtype).view(-1, *z.shape))
            else:
                yield 1.0, y.double() - z
            return
        if self.likelihood == "bernoulli":
            pi = z.sigmoid()
            if self.measure == "exact":
                variance = (pi * (1 - pi)).flatten()
                unit = torch.eye(z.numel(), dtype=z.dtype).view(-1, *z.shape)
                yield from zip(variance.tolist(), unit, strict=True)
            else:
                yield 1.0, (y.double() if self.measure != "predicted" else (z > 0).double()) - pi
            return
        class_dim = z.ndim - 1 if self.pool == "none" and not self.classes_second else 1
        logits = z.movedim(class_dim, -1)  # (N, positions…, C)
        counts = (y != IGNORED)[..., None].double()
        pi = logits.softmax(dim=-1)
        if self.measure == "exact":
            for position in counts[..., 0].nonzero().tolist():
                for c, probability in enumerate(pi[tuple(position)].tolist()):
                    v = torch.zeros_like(pi)
                    v[tuple(position)] = -pi[tuple(position)]
                    v[(*position, c)] += 1
                    yield probability, v.movedim(-1, class_dim)
            return
        labels = logits.argmax(dim=-1) if self.measure == "predicted" else y.clamp(min=0)
        yield 1.0, ((F.one_hot(labels, self.outputs) - pi) * counts).movedim(-1, class_dim)


@dataclass(frozen=True)
class Reference:
    """What is to come out.

    Attributes:
        values: by parameter.
        trainable: whether anything is.
        reached: whether an output had a graph; of a frozen model, which needs none, True.
    """

    values: oracles.Tensors
    trainable: bool
    reached: bool


def _pulled_back(model: nn.Module, z: Tensor, v: Tensor) -> dict[str, Tensor]:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters or not z.requires_grad:
        return {}
    found = torch.autograd.grad(z, parameters.values(), v, retain_graph=True, allow_unused=True)
    return {name: g.to_dense().double() for name, g in zip(parameters, found, strict=True) if g is not None}


def _of_torch(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module).__module__.startswith("torch.")]


def _shake(model: nn.Module) -> None:
    """Norms away from the identity, running statistics from 0 and 1."""
    for module in model.modules():
        if hasattr(module, "running_var") and module.running_var is not None:
            module.running_mean.normal_(0.0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
        if "Norm" in type(module).__name__:
            for p in module.parameters(recurse=False):
                p.data += 0.3 * torch.randn(p.shape)


def _first_and_last(raw: list[Tensor]) -> tuple[Tensor, Tensor]:
    return raw[0], raw[-1]


class _Mappings(Dataset):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": self.y[index]}


class Broken(Exception):
    """What a broken dataset or forward raises."""

    forwards = 0


class _BrokenAtTheEnd(Dataset):
    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        if index == len(self) - 1:
            raise Broken("the last sample cannot be read")
        return self.data[index]


# ----------------------------------------------------------- the comparison


def compare(found: oracles.Tensors, wanted: oracles.Tensors, power: int, of_parameter: float, of_model: float) -> None:
    """Each importance is that of gradients within the tolerances: a gradient of 0 has the noise of the others."""
    largest = max((float(value.max()) for value in wanted.values() if value.numel()), default=0.0) ** (1 / power)
    for name, want in wanted.items():
        assert found[name].shape == want.shape, f"{name}: {tuple(found[name].shape)}, not {tuple(want.shape)}"
        assert not found[name].requires_grad, f"the importance of {name} holds a graph"
        scale = float(want.max()) ** (1 / power)
        allowed = (scale + of_parameter * scale + of_model * largest) ** power - scale**power
        off = float((found[name].double() - want.double()).abs().max())
        assert off <= allowed, (
            f"{name} ({getattr(found, 'paths', {}).get(name)}): {off:.3g} off, allowed {allowed:.3g}; "
            f"its largest is {scale**power:.3g}, the model's {largest**power:.3g}"
        )


# ------------------------------------------------------------- the strategy


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """Any spec that makes sense."""
    kind = draw(st.sampled_from(["vector", "sequence", "image", "embedding", "positions"]))

    shared = draw(st.booleans())

    def some(stage: str, least: int, most: int) -> tuple[str, ...]:
        names = draw(st.lists(st.sampled_from(sorted(BLOCKS[stage])), min_size=least, max_size=most, unique=True))
        return (*names, *names[:1]) if shared else tuple(names)

    image = some("image", 1, 2) if kind == "image" else ()
    sequence = some("sequence", 0 if kind in ("image", "embedding") else 1, 3) if kind != "vector" else ()
    vector = some("vector", 1 if kind == "vector" else 0, 4 if kind == "vector" else 1) if kind != "positions" else ()
    base = Spec(vector=vector, sequence=sequence, image=image)
    double = draw(st.booleans()) and "rounds" not in base.traits

    measures = [m for m in (*FISHER, *MAS) if not (m in ("predicted", "sample") and "rounds" in base.traits)]
    measure = draw(st.sampled_from(measures))
    likelihood = draw(st.sampled_from(LIKELIHOODS)) if measure in FISHER else "categorical"
    if (measure, likelihood) == ("predicted", "gaussian"):
        likelihood = "bernoulli"
    batchwise = measure in ("batched", "batch mean")
    samples = draw(st.integers(1, 12))
    pool = "none" if kind == "positions" else draw(st.sampled_from(["mean", "last", "flatten"]))
    outputs = draw(st.integers(1, 4))
    if likelihood == "categorical" and measure in FISHER:
        outputs = max(outputs, 2)
    labelled = measure in ("empirical", "batched")
    ordered = batchwise or measure == "sample" or "draws" in base.traits
    forms = [f for f in FORMS if not (f == "unlabelled" and labelled) and not (f == "shuffled" and ordered)]
    form = draw(st.sampled_from(forms))
    whole = form in ("dataset", "shuffled")
    return dataclasses.replace(
        base,
        embedding=draw(st.sampled_from(sorted(EMBEDDINGS))) if kind == "embedding" else "",
        length=draw(st.integers(2, 4)),
        pool=pool if base.is_sequence or kind == "embedding" else "mean",
        classes_second=kind == "positions" and draw(st.booleans()),
        squeezed=outputs == 1 and pool != "none" and draw(st.booleans()),
        outputs=outputs,
        shared=shared,
        frozen=draw(st.sampled_from([0, 0, 2, 3])),
        double=double,
        seed=draw(st.integers(0, 1000)),
        samples=samples,
        batch=draw(st.integers(1, samples)),
        regular=draw(st.sampled_from([0, samples // 2, samples])),
        ignored=likelihood == "categorical"
        and measure in FISHER
        and not batchwise
        and form not in ("unlabelled",)
        and draw(st.booleans()),
        form=form,
        first=None if whole else draw(st.sampled_from([None, None, max(1, samples - 1)])),
        measure=measure,
        likelihood=likelihood,
        draws=draw(st.integers(1, 3)) if measure == "sample" else 1,
        max_bytes=draw(st.sampled_from([2**30, 2**20, 2**14, 2**10])),
        path=draw(st.sampled_from(["auto", "auto", "auto", "one_at_a_time"])),
        training=draw(st.sampled_from(["train", "eval", "mixed"])),
        around=draw(st.sampled_from(["", "no_grad", "inference_mode", "autocast", "kernels", "tf32", "float64"])),
        gradients=draw(st.booleans()),
        fault=draw(st.sampled_from(["", "", "", "", *(f for f in FAULTS if f != "labels" or labelled)])),
    )
