"""Models that an importance has to be right for: each small, each with its own trap."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from avalanche.models import IncrementalClassifier, MultiHeadClassifier, MultiTaskModule
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint


class Calls(nn.Module):
    """A module whose forward is a function of itself and the inputs."""

    def __init__(self, forward: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self._function = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self._function(self, x)


# ------------------------------------------------------------ feed-forward


def mlp(outputs: int = 3) -> nn.Module:
    """In-place activations after every hidden layer."""
    return nn.Sequential(
        nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 6), nn.ELU(inplace=True), nn.Linear(6, outputs)
    )


def masked_in_place() -> nn.Module:
    """Two outputs are overwritten in place after the layer, as masks of unused classes do."""

    def forward(self, x):
        z = self.net(x)
        z[:, [1, 3]] = -1000.0
        return z

    return Calls(forward, net=mlp(4))


def conv2d() -> nn.Module:
    """Strided; then grouped, dilated, padded "same" and circularly; then even kernels, padded "same"."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=(2, 1), padding=(1, 0)),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, groups=2, dilation=(1, 2), padding="same", padding_mode="circular", bias=False),
        nn.Tanh(),
        nn.Conv2d(6, 2, (2, 4), padding="same"),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def conv2d_at_many_positions() -> nn.Module:
    """Padded and circular; then grouped, strided and dilated."""
    return nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1, padding_mode="circular"),
        nn.Tanh(),
        nn.Conv2d(16, 16, 3, groups=2, stride=(1, 2), dilation=(2, 1), padding=1),
        nn.Flatten(),
        nn.Linear(16 * 22 * 7, 3),
    )


def conv1d() -> nn.Module:
    """Strided, grouped, dilated and reflected."""
    return nn.Sequential(
        nn.Conv1d(4, 6, 3, stride=2, groups=2, dilation=2, padding=2, padding_mode="reflect"),
        nn.SiLU(inplace=True),
        nn.Conv1d(6, 2, 2, padding=1, padding_mode="replicate"),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def conv3d() -> nn.Module:
    """Three spatial dimensions with options of their own."""
    return nn.Sequential(
        nn.Conv3d(2, 4, (2, 3, 1), stride=(1, 2, 1), padding=(0, 1, 1), groups=2, dilation=(2, 1, 1)),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def norms() -> nn.Module:
    """GroupNorm, LayerNorm over several dimensions, BatchNorm1d on (samples, channels, length)."""
    net = nn.Sequential(
        nn.GroupNorm(2, 4),
        nn.Tanh(),
        nn.LayerNorm((4, 3)),
        nn.SiLU(),
        nn.BatchNorm1d(4),
        nn.Tanh(),
        nn.LayerNorm(3),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(12, 3),
    )
    return _randomise_norms(net)


def _randomise_norms(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0.0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
    return model


class Block(nn.Module):
    """A residual block; sums and activations are in place."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.shortcut = nn.Sequential(nn.Conv2d(channels, 4, 1, stride=stride, bias=False), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu_(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        h += self.shortcut(x)
        return F.relu_(h)


def resnet() -> nn.Module:
    """Two blocks, running statistics away from 0 and 1."""
    net = nn.Sequential(Block(2, 1), Block(4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return _randomise_norms(net)


def resnet_with_bare_parameter() -> nn.Module:
    """One ``nn.Parameter`` that belongs to no layer."""
    return Calls(lambda self, x: self.net(x) * self.scale, net=resnet(), scale=nn.Parameter(torch.randn(3)))


# --------------------------------------------------------------- sequences


def transformer() -> nn.Module:
    """Attention, LayerNorm and layers that act on every token."""
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, batch_first=True)
    return _randomise_norms(Calls(lambda self, x: self.head(self.layer(x).mean(1)), layer=layer, head=nn.Linear(4, 3)))


def attention() -> nn.Module:
    """``nn.MultiheadAttention`` on its own, tokens first."""

    def forward(self, x):
        tokens = x.transpose(0, 1)
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].sum(0))

    return Calls(forward, attention=nn.MultiheadAttention(4, 2), head=nn.Linear(4, 3))


def cross_attention() -> nn.Module:
    """Queries, keys and values of their own: the input's projection is applied in parts."""

    def forward(self, x):
        found, _ = self.attention(x[:, :1], x, x.tanh(), need_weights=False)
        return self.head(found.mean(1))

    return Calls(forward, attention=nn.MultiheadAttention(4, 2, batch_first=True), head=nn.Linear(4, 3))


def attention_over_windows() -> nn.Module:
    """Windows of two tokens stand in the batch, so that samples are no rows of the projections."""

    def forward(self, x):
        windows = x.reshape(-1, 2, 4)
        found, _ = self.attention(windows, windows, windows, need_weights=False)
        return self.head(found.reshape(len(x), -1, 4).mean(1))

    return Calls(forward, attention=nn.MultiheadAttention(4, 2, batch_first=True), head=nn.Linear(4, 3))


def class_token() -> nn.Module:
    """As vision transformers begin: a token and positions for every sample."""

    def forward(self, x):
        tokens = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.head(self.layer(tokens)[:, 0] * self.gain)

    return Calls(
        forward,
        token=nn.Parameter(torch.randn(1, 1, 4)),
        positions=nn.Parameter(torch.randn(1, 4, 4)),
        gain=nn.Parameter(torch.randn(1, 4)),
        layer=nn.Linear(4, 4),
        head=nn.Linear(4, 3),
    )


def routed_attention() -> nn.Module:
    """Only samples with a positive first entry come by: all of the first, half of the others."""

    def forward(self, x):
        chosen = x[:, 0, 0] > 0
        seen = x[chosen]
        found, _ = self.attention(seen, seen, seen, need_weights=False)
        return self.head(x.mean(1).index_add(0, chosen.nonzero().flatten(), found.mean(1)))

    return Calls(forward, attention=nn.MultiheadAttention(4, 2, batch_first=True), head=nn.Linear(4, 3))


def checkpointed_attention() -> nn.Module:
    """Computed a second time when the gradient is."""

    def forward(self, x):
        return self.head(checkpoint(self.layer, x + self.positions, use_reentrant=False).mean(1))

    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, batch_first=True)
    return _randomise_norms(
        Calls(forward, layer=layer, positions=nn.Parameter(torch.randn(1, 3, 4)), head=nn.Linear(4, 3))
    )


def summands() -> nn.Module:
    """Parameters that are added, subtracted, repeated, and expanded in several dimensions."""

    def forward(self, x):
        tokens = torch.cat([self.token.repeat(len(x), 1, 1), x - self.shift], dim=1)
        tokens = tokens + self.features + self.each_position
        return self.head((tokens + self.scalar).tanh().mean(1))

    return Calls(
        forward,
        token=nn.Parameter(torch.randn(1, 1, 4)),
        shift=nn.Parameter(torch.randn(3, 1)),
        features=nn.Parameter(torch.randn(4)),
        each_position=nn.Parameter(torch.randn(1, 4, 1)),
        scalar=nn.Parameter(torch.randn(())),
        head=nn.Linear(4, 3),
    )


def one_number_a_sample() -> nn.Module:
    """What is added to has no dimension but the samples'."""
    return Calls(
        lambda self, x: self.head(x).squeeze(-1).tanh() + self.offset + self.shift,
        head=nn.Linear(4, 1),
        offset=nn.Parameter(torch.randn(1)),
        shift=nn.Parameter(torch.randn(())),
    )


def a_sum_of_complex_numbers() -> nn.Module:
    """A real parameter, whose gradient is a part of that of the sum."""
    return Calls(
        lambda self, x: self.head((torch.fft.rfft(x) + self.shift).abs()),
        shift=nn.Parameter(torch.randn(3)),
        head=nn.Linear(3, 3),
    )


class UnpaddedAttention(nn.MultiheadAttention):
    """A forward of its own, samples first, over the rows that hold something."""

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of shape (samples, tokens, features)."""
        held = x.any(dim=2)
        rows = nn.functional.linear(x[held], self.out_proj.weight, self.out_proj.bias)
        return torch.zeros_like(x).masked_scatter(held.unsqueeze(2), rows)


def attention_of_a_subclass() -> nn.Module:
    """Its weights are not used as attention uses them."""
    return Calls(
        lambda self, x: self.head(self.attention(x).tanh().mean(1)),
        attention=UnpaddedAttention(4, 2, batch_first=True),
        head=nn.Linear(4, 3),
    )


def no_summands() -> nn.Module:
    """Parameters in sums that are no sample's own: weighted, within a weight, and over tokens that come first."""

    def forward(self, x):
        tokens = torch.add(x, self.twice, alpha=2).transpose(0, 1) + self.position
        mixed = nn.functional.linear(tokens.mean(0), self.weight + self.change)
        return self.head(mixed.tanh())

    return Calls(
        forward,
        twice=nn.Parameter(torch.randn(4)),
        position=nn.Parameter(torch.randn(6, 1, 4)),  # as many tokens as samples
        weight=nn.Parameter(torch.randn(6, 4)),
        change=nn.Parameter(torch.randn(4)),
        head=nn.Linear(6, 3),
    )


def embedding() -> nn.Module:
    """Repeated tokens and a padding token."""
    return Calls(
        lambda self, x: self.head(self.table(x).tanh().sum(1)),
        table=nn.Embedding(6, 4, padding_idx=0),
        head=nn.Linear(4, 3),
    )


def gru() -> nn.Module:
    """A recurrent layer: its weights act once a step, inside one operation."""
    return Calls(
        lambda self, x: self.head(self.gru(x)[0][:, -1]),
        gru=nn.GRU(4, 3, batch_first=True),
        head=nn.Linear(3, 3),
    )


def tokens_in_the_batch() -> nn.Module:
    """Samples and tokens share the first dimension of the layer."""

    def forward(self, x):
        n, t, d = x.shape
        return self.head(self.token(x.reshape(n * t, d)).tanh().view(n, t, -1).sum(1))

    return Calls(forward, token=nn.Linear(4, 5), head=nn.Linear(5, 3))


def tokens_first() -> nn.Module:
    """The layer sees tokens first; where there are N of them, nothing but the numbers tells."""
    return Calls(
        lambda self, x: self.head(self.token(x.transpose(0, 1)).tanh().sum(0)),
        token=nn.Linear(4, 5),
        head=nn.Linear(5, 3),
    )


def last_of_tokens_first() -> nn.Module:
    """As above, and only the last token counts, so a single sample looks right."""
    return Calls(
        lambda self, x: self.head(self.token(x.transpose(0, 1)).tanh()[-1]),
        token=nn.Linear(4, 5, bias=False),
        head=nn.Linear(5, 3),
    )


def embedded_tokens_first() -> nn.Module:
    """An embedding of tokens first: samples whose tokens differ from all others look right."""
    return Calls(
        lambda self, x: self.head(self.table(x.transpose(0, 1)).tanh().sum(0)),
        table=nn.Embedding(40, 4),
        head=nn.Linear(4, 3),
    )


# ---------------------------------------------- weights used in other ways


def tied() -> nn.Module:
    """One weight encodes and decodes."""
    return Calls(
        lambda self, x: F.linear(torch.tanh(self.encoder(x)), self.encoder.weight.t()),
        encoder=nn.Linear(3, 4),
    )


def tied_modules() -> nn.Module:
    """Two layers hold the same weight."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    net[2].weight = net[0].weight
    return net


def called_twice() -> nn.Module:
    """One layer, two calls."""
    return Calls(
        lambda self, x: self.head(self.step(self.step(x).tanh()).tanh()),
        step=nn.Linear(4, 4),
        head=nn.Linear(4, 3),
    )


def layers_on_constants() -> nn.Module:
    """Layers on what is no sample: positions, a learned vector, a learned image, a scalar index."""

    def forward(self, x):
        positions = self.positions(torch.arange(x.shape[1]))
        query = self.query_layer(self.query)
        image = self.conv(self.image).sum((1, 2))
        task = self.task(torch.tensor(1))
        return self.head((x + positions + task).tanh().sum(1) * query * image)

    return Calls(
        forward,
        positions=nn.Embedding(3, 4),
        query=nn.Parameter(torch.randn(3)),
        query_layer=nn.Linear(3, 4),
        image=nn.Parameter(torch.randn(2, 4, 4)),
        conv=nn.Conv2d(2, 4, 3),
        task=nn.Embedding(2, 4),
        head=nn.Linear(4, 3),
    )


class Gained(nn.Linear):
    """A Linear with a parameter that its inherited forward does not know of."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.gain = nn.Parameter(torch.randn(outputs))


def reparametrised() -> nn.Module:
    """A weight that is computed from other parameters, and a layer with a parameter more than its type."""
    first = parametrizations.orthogonal(nn.Linear(5, 5), orthogonal_map="cayley")
    return Calls(
        lambda self, x: self.head(self.second(self.first(x)) * self.second.gain),
        first=first,
        second=Gained(5, 4),
        head=nn.Linear(4, 3),
    )


def other_layers() -> nn.Module:
    """Layers that have no rule."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 5)), nn.ConvTranspose1d(1, 2, 2), nn.PReLU(2), nn.Flatten(), nn.Linear(12, 3)
    )


def keyword_call() -> nn.Module:
    """A layer whose input is passed by name."""
    return Calls(lambda self, x: self.head(input=self.body(x).tanh()), body=nn.Linear(5, 4), head=nn.Linear(4, 3))


# --------------------------------------------------------------- Avalanche


class MultiHead(MultiTaskModule):
    """A trunk and Avalanche's heads; units of other experiences are masked in place."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True))
        self.heads = MultiHeadClassifier(6, initial_out_features=3)
        for task, classes in ((0, [0, 2]), (1, [1, 2])):
            self.heads.adaptation(_Experience(classes, [task]))

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        return self.heads(self.trunk(x), task_labels)


def incremental() -> nn.Module:
    """Avalanche's growing classifier, one unit masked."""
    classifier = IncrementalClassifier(6, initial_out_features=2)
    classifier.adaptation(_Experience([0, 1], [0]))
    classifier.adaptation(_Experience([3], [0]))
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), classifier)


@dataclass
class _Experience:
    classes_in_this_experience: list[int]
    task_labels: list[int]
