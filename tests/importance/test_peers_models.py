"""Models of the kinds that the tests of BackPACK, curvlinops and Opacus go through, in our own words.

Each is measured three times, by the exact Fisher, the empirical Fisher and MAS, and compared with one sample at a time.
What :mod:`tests.importance.cases` has already is not repeated here.
"""

import itertools
from collections import UserDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader, TensorDataset

from clreg_plugins import fisher_diagonal, mas_importance
from tests import oracles
from tests.importance.cases import Case
from tests.importance.generator import compare
from tests.importance.models import Calls

pytestmark = [  # PyTorch's own, of what it does itself
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented the batching"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


def chain(*parts: nn.Module) -> Callable[[], nn.Module]:
    """Layers after one another, with everything flattened and a head of three outputs at the end."""
    return lambda: nn.Sequential(*parts, nn.Flatten(), nn.LazyLinear(3))


def seen(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> Callable[[], nn.Module]:
    """The model, once its lazy head has seen a batch."""

    def built() -> nn.Module:
        model = build()
        model.eval()(torch.zeros(2, *shape))
        return model

    return built


def over(shape: tuple[int, ...], *parts: Callable[[], nn.Module], **options) -> Case:
    """A case of layers on random inputs; each part is a constructor, so that every case has weights of its own."""
    return Case(seen(lambda: chain(*(part() for part in parts))(), shape), shape, **options)


# ---------------------------------------------------------------- the layers

CONVOLUTIONS = {
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}
SPACE = {1: (7,), 2: (5, 6), 3: (4, 3, 4)}


def convolutions() -> dict[str, Case]:
    """Every dimension with every mode of padding, and strides, dilations and groups in turn."""
    found = {}
    for dims, (conv, transposed) in CONVOLUTIONS.items():
        shape = (4, *SPACE[dims])
        modes = ["zeros", "circular", "replicate", *(["reflect"] if dims < 3 else [])]
        for mode, padding in itertools.product(modes, [1, "same", "valid"]):
            options = {"padding": padding, "padding_mode": mode, "groups": 2 if padding == 1 else 1}
            found[f"conv{dims}d, {mode}, padding {padding}"] = over(shape, lambda c=conv, o=options: c(4, 2, 2, **o))
        for options in (
            {"stride": 2},
            {"dilation": 2, "bias": False},
            {"stride": 3, "padding": 1, "groups": 4},
            {"kernel_size": 1},
        ):
            options = {"kernel_size": 2, **options}
            found[f"conv{dims}d, {options}"] = over(shape, lambda c=conv, o=options: c(4, 4, **o), nn.Tanh)
        for options in (
            {"stride": 2, "output_padding": 1, "padding": 1},
            {"groups": 2, "dilation": 2, "bias": False},
        ):
            found[f"transposed conv{dims}d, {options}"] = over(
                shape, lambda c=transposed, o=options: c(4, 4, 2, **o), nn.Tanh, not_by_rule=("0",)
            )
    return found


def activations() -> dict[str, Case]:
    """Between two layers, in place where there is such a form."""
    kinds = (nn.Sigmoid, nn.LogSigmoid, nn.LeakyReLU, nn.SELU, nn.Softplus, nn.Hardtanh, nn.Mish, nn.Softsign, nn.GLU)
    return {
        kind.__name__: over((6,), lambda: nn.Linear(6, 4), lambda k=kind: k(inplace=True) if _in_place(k) else k())
        for kind in kinds
    }


def _in_place(kind: type[nn.Module]) -> bool:
    return kind in (nn.LeakyReLU, nn.SELU, nn.Hardtanh, nn.Mish)


def pools() -> dict[str, Case]:
    """Between a convolution and a head."""
    found = {}
    for dims, (conv, _) in CONVOLUTIONS.items():
        for name, pool in {
            "max": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
            "average": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
            "adaptive": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        }.items():
            found[f"{name} pool {dims}d"] = over(
                (2, *SPACE[dims]), lambda c=conv: c(2, 3, 3, padding=1), lambda p=pool[dims - 1]: p(2)
            )
    return found


def norms() -> dict[str, Case]:
    """Affine, with and without statistics of their own, over one to three dimensions."""

    def shaken(norm: nn.Module) -> nn.Module:
        for p in norm.parameters():
            nn.init.normal_(p, 0.5)
        if getattr(norm, "running_mean", None) is not None:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
        return norm

    kinds = {
        1: (nn.BatchNorm1d, nn.InstanceNorm1d, nn.Conv1d),
        2: (nn.BatchNorm2d, nn.InstanceNorm2d, nn.Conv2d),
        3: (nn.BatchNorm3d, nn.InstanceNorm3d, nn.Conv3d),
    }
    found = {}
    for dims, (batch, instance, conv) in kinds.items():
        shape = (4, *SPACE[dims])
        for name, make in {
            f"BatchNorm{dims}d": lambda b=batch: b(4),
            f"BatchNorm{dims}d without gradient for its weight": lambda b=batch: _without_weight(b(4)),
            f"InstanceNorm{dims}d": lambda i=instance: i(4, affine=True),
            f"InstanceNorm{dims}d with statistics": lambda i=instance: i(4, affine=True, track_running_stats=True),
            f"GroupNorm of {dims} dimensions": lambda: nn.GroupNorm(2, 4),
            f"LayerNorm of {dims} dimensions": lambda s=shape: nn.LayerNorm(s[1:]),
            f"RMSNorm of {dims} dimensions": lambda s=shape: nn.RMSNorm(s[-1]),
        }.items():
            found[name] = over(shape, lambda c=conv: c(4, 4, 1), lambda m=make: shaken(m()), nn.Tanh)
    return found


def _without_weight(norm: nn.Module) -> nn.Module:
    norm.weight.requires_grad_(False)
    return norm


# ---------------------------------------------------------------- the models


class Parallel(nn.Module):
    """Branches of one input, summed or stacked."""

    def __init__(self, *branches: nn.Module, stacked: bool = False) -> None:
        super().__init__()
        self.branches, self.stacked = nn.ModuleList(branches), stacked

    def forward(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in self.branches]
        return torch.cat(parts, dim=1) if self.stacked else sum(parts)


class Last(nn.Module):
    """The output of a recurrent layer at the last step, or all of them, or its last state."""

    def __init__(self, layer: nn.RNNBase, what: str = "step") -> None:
        super().__init__()
        self.layer, self.what = layer, what

    def forward(self, x: Tensor) -> Tensor:
        out, state = self.layer(x if self.layer.batch_first else x.transpose(0, 1))
        if self.what == "state":
            state = state[0] if isinstance(state, tuple) else state
            return state.transpose(0, 1).flatten(1)
        out = out if self.layer.batch_first else out.transpose(0, 1)
        return out[:, -1] if self.what == "step" else out


def recurrent() -> dict[str, Case]:
    """Kinds, directions, layers, projections, what is taken of them."""
    kinds = {
        "RNN of tokens first": lambda: Last(nn.RNN(3, 4)),
        "RNN with relu": lambda: Last(nn.RNN(3, 4, nonlinearity="relu", batch_first=True)),
        "LSTM": lambda: Last(nn.LSTM(3, 4, batch_first=True)),
        "LSTM, its state": lambda: Last(nn.LSTM(3, 4), "state"),
        "LSTM, two layers both ways": lambda: Last(nn.LSTM(3, 2, 2, bidirectional=True, batch_first=True), "all"),
        "LSTM with projection": lambda: Last(nn.LSTM(3, 4, proj_size=2, batch_first=True)),
        "GRU without bias": lambda: Last(nn.GRU(3, 4, bias=False, batch_first=True), "all"),
    }
    return {name: over((4, 3), make, nn.Tanh, not_by_rule=("0",), vectorisable=False) for name, make in kinds.items()}


def masked_head(self: nn.Module, x: Tensor) -> Tensor:
    return self.head(self.first(x).tanh()) + (self.unused(x) * 0 if self.training else 0)


def language_model(self: nn.Module, tokens: Tensor) -> Tensor:
    """Causal attention between a table of tokens and the same table."""
    h = self.table(tokens) + self.positions[: tokens.shape[1]]
    causal = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], dtype=h.dtype)
    return self.encoder(h, src_mask=causal, is_causal=True) @ self.table.weight.t()


def tiny_language_model() -> nn.Module:
    encoder = nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, batch_first=True, norm_first=True, activation="gelu")
    return Calls(language_model, table=nn.Embedding(5, 4), positions=nn.Parameter(torch.randn(6, 4)), encoder=encoder)


def models() -> dict[str, Case]:
    """Whole models: branches, shared weights, tables, losses over several dimensions."""
    return {
        "deep and narrow": over((5,), *[lambda: nn.Linear(5, 5), nn.Tanh] * 4),
        "a layer over four dimensions": over((2, 3, 5), lambda: nn.Linear(5, 4), nn.Tanh),
        "flattened in the middle": over((3, 2, 4), lambda: nn.Flatten(2), lambda: nn.Linear(8, 4), nn.Tanh),
        "padded and permuted": over(
            (2, 4, 4), lambda: nn.ZeroPad2d(1), lambda: nn.Conv2d(2, 3, 3), lambda: nn.PixelShuffle(1), nn.Tanh
        ),
        "unfolded": over((2, 5, 5), lambda: nn.Unfold(3), lambda: nn.Linear(9, 3), nn.Tanh),
        "upsampled": over((2, 3, 3), lambda: nn.Conv2d(2, 2, 2), lambda: nn.Upsample(scale_factor=2), nn.Tanh),
        "branches, summed": over(
            (5,),
            lambda: nn.Linear(5, 5),
            lambda: Parallel(nn.Identity(), nn.Sequential(nn.Linear(5, 5), nn.Tanh()), nn.Linear(5, 5)),
        ),
        "branches, stacked": over(
            (5,), lambda: Parallel(nn.Linear(5, 2), nn.Sequential(nn.Tanh(), nn.Linear(5, 3)), stacked=True), nn.Sigmoid
        ),
        "branches within branches": over(
            (5,), lambda: Parallel(nn.Identity(), nn.Sequential(Parallel(nn.Linear(5, 5), nn.Linear(5, 5)), nn.Tanh()))
        ),
        "a frozen layer between": over(
            (5,),
            lambda: nn.Linear(5, 5),
            lambda: nn.Linear(5, 5).requires_grad_(False),
            nn.Tanh,
            lambda: nn.Linear(5, 4),
        ),
        "bilinear": Case(
            lambda: Calls(lambda self, x: self.form(x, x.cos()), form=nn.Bilinear(5, 5, 3)), not_by_rule=("form",)
        ),
        "a part that training alone needs": Case(
            lambda: Calls(masked_head, first=nn.Linear(5, 4), head=nn.Linear(4, 3), unused=nn.Linear(5, 3))
        ),
        "weights shared by a convolution's calls": Case(
            lambda: Calls(
                lambda self, x: self.head(self.conv(self.conv(x).tanh()).flatten(1)),
                conv=nn.Conv2d(2, 2, 3, padding=1),
                head=nn.Linear(18, 3),
            ),
            (2, 3, 3),
            not_by_rule=("conv",),
        ),
        "a weight shared by layers of two kinds": Case(
            lambda: Calls(
                lambda self, x: F.linear(self.table(x).tanh().sum(1), self.table.weight), table=nn.Embedding(6, 4)
            ),
            (3,),
            targets=6,
            tokens=6,
            not_by_rule=("table",),
        ),
        "a table of two dimensions of tokens": Case(
            lambda: Calls(
                lambda self, x: self.head(self.table(x).sum((1, 2)).tanh()),
                table=nn.Embedding(5, 4, sparse=True),
                head=nn.Linear(4, 3),
            ),
            (2, 3),
            tokens=5,
        ),
        "bags of tokens, by their mean": _bags("mean"),
        "bags of tokens, by their maximum": _bags("max"),
        "an MLP-mixer": Case(
            lambda: Calls(
                lambda self, x: self.head((x + self.mix(self.norm(x).transpose(1, 2)).transpose(1, 2)).tanh().mean(1)),
                norm=nn.LayerNorm(4),
                mix=nn.Linear(3, 3),
                head=nn.Linear(4, 3),
            ),
            (3, 4),
        ),
        "attention with dropout and a mask": Case(
            lambda: Calls(
                lambda self, x: self.head(
                    self.attention(x, x, x, attn_mask=torch.ones(3, 3).triu(1).bool(), need_weights=True)[0][:, -1]
                ),
                attention=nn.MultiheadAttention(4, 2, dropout=0.5, bias=False, batch_first=True),
                head=nn.Linear(4, 3),
            ),
            (3, 4),
        ),
        "attention with keys of another width": Case(
            lambda: Calls(
                lambda self, x: self.head(
                    self.attention(x, x[..., :2], x[..., :3], need_weights=False)[0].tanh().sum(1)
                ),
                attention=nn.MultiheadAttention(4, 2, kdim=2, vdim=3, batch_first=True),
                head=nn.Linear(4, 3),
            ),
            (3, 4),
            not_by_rule=("attention",),
        ),
        "squared error over a sequence": Case(
            lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)),
            (2, 3),
            targets=(2, 1),
            likelihood="gaussian",
        ),
        "squared error of an autoencoder": Case(
            lambda: nn.Sequential(nn.Conv1d(1, 2, 2, stride=2), nn.Tanh(), nn.ConvTranspose1d(2, 1, 2, stride=2)),
            (1, 4),
            targets=(1, 4),
            likelihood="gaussian",
            not_by_rule=("2",),
        ),
        "binary labels of a map": Case(
            lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.SiLU(), nn.Conv2d(2, 1, 1)),
            (1, 3, 2),
            targets=(1, 2, 1),
            likelihood="bernoulli",
        ),
        "one binary label": Case(
            lambda: nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 1), nn.Flatten(0)),
            targets=(),
            likelihood="bernoulli",
        ),
    }


def _bags(mode: str) -> Case:
    return Case(
        lambda: Calls(
            lambda self, x: self.head(self.table(x).tanh()),
            table=nn.EmbeddingBag(6, 4, mode=mode),
            head=nn.Linear(4, 3),
        ),
        (4,),
        tokens=6,
        not_by_rule=("table",),
    )


CASES = {**convolutions(), **activations(), **pools(), **norms(), **recurrent(), **models()}
MEASURES = ("exact", "empirical", "squared_norm")


def in_double(case: Case) -> tuple[nn.Module, tuple[Tensor, ...]]:
    samples = case.samples()
    return case.model().double(), tuple(part.double() if part.is_floating_point() else part for part in samples)


@pytest.mark.filterwarnings(
    "ignore:in eval mode the model's output on the first samples does not depend on unused:UserWarning"
)
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_one_sample_at_a_time(name, measure):
    case = CASES[name]
    model, samples = in_double(case)
    loader = DataLoader(TensorDataset(*samples), batch_size=4)  # a batch of four, and one of two
    if measure == "squared_norm":
        got, power = mas_importance(model, loader), 1
        want = oracles.mas(model, samples, output=measure)
    else:
        got, power = fisher_diagonal(model, loader, variant=measure, likelihood=case.likelihood), 2
        want = oracles.fisher(model, samples, variant=measure, likelihood=case.likelihood)
    compare(got, want, power, 1e-9, 1e-13)


# -------------------------------------------------------- outputs at positions


def logits_at_positions(class_dim: int, x: Tensor) -> oracles.Outputs:
    return lambda model, n: model(x[n : n + 1]).movedim(class_dim, -1).flatten(0, -2)


POSITIONS = {  # model, shape of a sample, classes, where they are
    "a language model with tied tables": (tiny_language_model, (3,), 5, -1),
    "labels of tokens, classes second": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.Tanh(), nn.Conv1d(3, 3, 1)),
        (2, 4),
        3,
        1,
    ),
    "labels of tokens, classes last": (
        lambda: nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)),
        (3, 2),
        3,
        -1,
    ),
    "segmentation": (lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Conv2d(3, 2, 1)), (2, 3, 3), 2, 1),
    "labels of tokens by an LSTM": (
        lambda: nn.Sequential(Last(nn.LSTM(2, 3, batch_first=True), "all"), nn.Linear(3, 3)),
        (3, 2),
        3,
        -1,
    ),
}


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", POSITIONS)
def test_outputs_at_positions(name, measure, ignored):
    build, shape, classes, class_dim = POSITIONS[name]
    model = build().double()
    x = torch.randint(0, 5, (5, *shape)) if "tables" in name else torch.randn(5, *shape).double()
    outputs = logits_at_positions(class_dim, x)
    y = torch.randint(0, classes, (5, *model(x).movedim(class_dim, -1).shape[1:-1]))
    if ignored:
        y[1] = -100
        y[3:, -1] = -100
    loader = DataLoader(TensorDataset(x, y), batch_size=3)
    if measure == "squared_norm":
        compare(mas_importance(model, loader), oracles.mas_of(model, outputs, 5), 1, 1e-9, 1e-13)
        return
    got = fisher_diagonal(model, loader, variant=measure, class_dim=class_dim)
    targets = list(y.flatten(1))
    compare(got, oracles.fisher_at_positions(model, outputs, 5, variant=measure, targets=targets), 2, 1e-9, 1e-13)


# ------------------------------------------------------------ kinds of batches


class TwoInputs(nn.Module):
    """Numbers and tokens, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers, self.table, self.head = nn.Linear(3, 4), nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, numbers: Tensor, tokens: Tensor) -> Tensor:
        return self.head((self.numbers(numbers) + self.table(tokens).sum(1)).tanh())


class OfOneTensor(nn.Module):
    """The same model of one tensor, for the reference: three numbers, then two tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x[:, :3], x[:, 3:].long())


@pytest.mark.parametrize("kind", ["dict", "UserDict", "tuple"])
@pytest.mark.parametrize("measure", MEASURES)
def test_batches_of_two_inputs_and_of_unequal_sizes(kind, measure):
    model = TwoInputs().double()
    numbers, tokens = torch.randn(6, 3).double(), torch.randint(0, 5, (6, 2))
    y = torch.tensor([0, 1, 2, 0, 1, 0])
    options = {}
    batches = []
    for rows in (slice(0, 1), slice(1, 5), slice(5, 6)):
        parts = {"numbers": numbers[rows], "tokens": tokens[rows], "labels": y[rows]}
        batches.append(UserDict(parts) if kind == "UserDict" else parts if kind == "dict" else tuple(parts.values()))
    if kind == "tuple":
        options["unpack"] = lambda raw: (raw[:2], raw[2])
    loader = DataLoader(batches, batch_size=None)
    samples = torch.cat([numbers, tokens.double()], dim=1), y
    if measure == "squared_norm":
        got, want = (
            mas_importance(model, loader, **options),
            oracles.mas(OfOneTensor(model), samples[:1], output=measure),
        )
    else:
        got = fisher_diagonal(model, loader, variant=measure, **options)
        want = oracles.fisher(OfOneTensor(model), samples, variant=measure, likelihood="categorical")
    want = {name.removeprefix("model."): value for name, value in want.items()}
    compare(got, want, 1 if measure == "squared_norm" else 2, 1e-9, 1e-13)


class Packed(nn.Module):
    """An LSTM over sequences of unlike lengths, by its last states."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4), nn.Linear(4, 3)

    def forward(self, sequences: PackedSequence) -> Tensor:
        return self.head(self.lstm(sequences)[1][0][-1])


@pytest.mark.parametrize("measure", MEASURES)
def test_packed_sequences(measure):
    model = Packed().double()
    sequences = [torch.randn(length, 3).double() for length in (2, 4, 1, 3, 3)]
    y = torch.tensor([0, 1, 2, 0, 1])
    batches = [(pack_sequence(sequences[rows], enforce_sorted=False), y[rows]) for rows in (slice(0, 3), slice(3, 5))]
    loader = DataLoader(batches, batch_size=None)

    def outputs(model: nn.Module, n: int) -> Tensor:
        return model(pack_sequence(sequences[n : n + 1]))

    if measure == "squared_norm":
        compare(mas_importance(model, loader), oracles.mas_of(model, outputs, 5), 1, 1e-9, 1e-13)
        return
    want = oracles.fisher_at_positions(model, outputs, 5, variant=measure, targets=list(y.view(5, 1)))
    compare(fisher_diagonal(model, loader, variant=measure), want, 2, 1e-9, 1e-13)
