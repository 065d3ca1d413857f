"""Everything reachable from the model, and the process's random states, are after a pass what they were before."""

import contextlib
import copy
import io
import itertools
import random
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from avalanche.benchmarks import nc_benchmark
from avalanche.training.plugins import LwFPlugin
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

from clreg_plugins import EWCPlugin, MASPlugin, fisher_diagonal
from tests.kinds.comparison import assert_right, expected, measure, strategy_of
from tests.kinds.whole_state import differences, process_state, state_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning"),
]

X, Y = torch.randn(20, 6, generator=torch.Generator().manual_seed(9)), torch.arange(20) % 4


class Keeps(nn.Module):
    """Two layers and a bare parameter between; subclasses keep what they compute."""

    def __init__(self):
        super().__init__()
        self.a, self.gain, self.h = nn.Linear(6, 5), nn.Parameter(torch.ones(5)), nn.Linear(5, 4)

    def features(self, x):
        return self.a(x).tanh() * self.gain

    def forward(self, x):
        f = self.features(x)
        self.keep(f)
        return self.h(f)

    def keep(self, f):
        raise NotImplementedError


class Attribute(Keeps):
    kept = None

    def keep(self, f):
        self.kept = f.detach()


class WithGraph(Keeps):
    kept = None

    def keep(self, f):
        self.kept = f


class RunningMean(Keeps):
    """Assigns a new tensor to its buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))

    def keep(self, f):
        self.mean = 0.9 * self.mean + 0.1 * f.detach().mean(0)


class InPlace(RunningMean):
    def keep(self, f):
        self.mean.mul_(0.9).add_(0.1 * f.detach().mean(0))


class Counts(Keeps):
    """Two counters of calls, a tensor and a number."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.n = 0

    def keep(self, f):
        self.calls += 1
        self.n += 1


class InAList(Keeps):
    def __init__(self):
        super().__init__()
        self.history = [torch.zeros(5)]

    def keep(self, f):
        self.history.append(f.detach())


class InADeque(Keeps):
    def __init__(self):
        super().__init__()
        self.history = deque([torch.zeros(5)], maxlen=3)

    def keep(self, f):
        self.history.append(f.detach().mean(0))


class InDicts(Keeps):
    """A cache in dicts of dicts."""

    def __init__(self):
        super().__init__()
        self.cache = {"features": {"last": torch.zeros(5), "all": []}, "steps": [0]}

    def keep(self, f):
        self.cache["features"]["last"] = f.detach()
        self.cache["features"]["all"].append(f.detach())
        self.cache["steps"][0] += 1
        self.cache.setdefault(f"batch of {len(f)}", set()).add(len(f))


@dataclass
class Record:
    """What a model has seen."""

    last: Tensor | None = None
    shapes: list = field(default_factory=list)


class InADataclass(Keeps):
    def __init__(self):
        super().__init__()
        self.record, self.space = Record(), SimpleNamespace(last=None)

    def keep(self, f):
        self.record.last = self.space.last = f.detach()
        self.record.shapes.append(tuple(f.shape))


class Cache:
    """A plain object of the user's."""

    def __init__(self):
        self.entries = {}

    def put(self, f):
        self.entries[len(self.entries)] = f.detach()


class InAnObject(Keeps):
    def __init__(self):
        super().__init__()
        self.cache = Cache()

    def keep(self, f):
        self.cache.put(f)


class OnAParameter(Keeps):
    """An attribute of an nn.Parameter, as optimizers and distributed wrappers put there."""

    def __init__(self):
        super().__init__()
        self.gain.steps, self.gain.last = 0, None

    def keep(self, f):
        self.gain.steps += 1
        self.gain.last = f.detach()


class InNumpy(Keeps):
    def __init__(self):
        super().__init__()
        self.seen = np.zeros(5)
        self.examples = set()

    def keep(self, f):
        self.seen += 1
        self.examples.add(len(self.examples))


class LazyBuffer(Keeps):
    """Makes a mask when it first meets a length."""

    def keep(self, f):
        if not hasattr(self, "mask"):
            self.register_buffer("mask", torch.ones(f.shape[1]), persistent=False)
            self.extra = nn.Identity()


class MovesItsParameter(Keeps):
    """Normalises a weight in place in each forward, as old code for spectral norms and prototypes does."""

    def keep(self, f):
        with torch.no_grad():
            self.h.weight.div_(self.h.weight.norm(dim=1, keepdim=True))


class SwitchesItself(Keeps):
    """Its last layer's mode, and whether its first layer is trained, follow the number of calls."""

    calls = 0

    def keep(self, f):
        self.calls += 1
        self.h.training = self.calls % 2 == 0


class Generator(Keeps):
    def __init__(self):
        super().__init__()
        self.generator, self.random, self.numpy = (
            torch.Generator().manual_seed(1),
            random.Random(1),
            np.random.default_rng(1),
        )

    def keep(self, f):
        torch.rand((), generator=self.generator)
        self.random.random()
        self.numpy.random()
        torch.rand(())
        random.random()
        np.random.rand()


KEEPERS = [
    Attribute, WithGraph, RunningMean, InPlace, Counts, InAList, InADeque, InDicts, InADataclass, InAnObject,
    OnAParameter, InNumpy, LazyBuffer, SwitchesItself, Generator,
]  # fmt: skip


def built(kind, seen=True):
    torch.manual_seed(0)
    model = kind().train()
    if seen:
        with torch.no_grad():
            model(X)
    return model


WAYS = [
    ("exact", "auto"),
    ("exact", "vectorised"),
    ("exact", "one_at_a_time"),
    ("batched", "auto"),
    ("mas", "auto"),
]


@pytest.mark.parametrize(("variant", "path"), WAYS)
@pytest.mark.parametrize("kind", KEEPERS)
def test_what_a_forward_keeps(kind, variant, path):
    model = built(kind, seen=kind is not LazyBuffer)
    model.h.eval()
    model.a.weight.grad = torch.randn(5, 6)
    want = None
    if variant != "batched":
        plain = copy.deepcopy(model)
        plain.keep = lambda f: None
        want = expected(plain, X, variant)
    before, process = state_of(model), process_state()
    try:
        got = measure(model, TensorDataset(X, Y), variant, path=path)
    except ValueError:
        assert path == "vectorised", "an error where there is another path"
        want = None
    assert not differences(before, state_of(model))
    assert not differences(process, process_state())
    if want is not None:
        assert_right(got, want)
    if kind is not WithGraph:  # deepcopy refuses tensors with a graph, before as after
        torch.save(copy.deepcopy(model), io.BytesIO())
    model(X)


@pytest.mark.parametrize("kind", KEEPERS)
def test_what_a_forward_keeps_when_the_pass_raises(kind):
    """The last target is none of the classes."""
    model, y = built(kind, seen=kind is not LazyBuffer), Y.clone()
    y[-1] = 9
    before, process = state_of(model), process_state()
    with pytest.raises(ValueError, match="class labels"):
        fisher_diagonal(model, TensorDataset(X, y), variant="empirical", batch_size=5)
    assert not differences(before, state_of(model))
    assert not differences(process, process_state())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [1, 5])
@pytest.mark.parametrize("path", ["auto", "vectorised", "one_at_a_time"])
def test_what_a_forward_keeps_when_it_raises_itself(at, path, error):
    class Raises(InDicts):
        def keep(self, f):
            super().keep(f)
            if self.cache["steps"][0] > at:
                raise error("enough")

    torch.manual_seed(0)
    model = Raises().train()
    before, process = state_of(model), process_state()
    with contextlib.suppress(error, ValueError):
        fisher_diagonal(model, TensorDataset(X), batch_size=5, path=path)
    assert not differences(before, state_of(model))
    assert not differences(process, process_state())


def test_a_parameter_that_the_forward_moves():
    """Numbers or an error; the weight as it was."""
    model = built(MovesItsParameter, seen=False)
    before = copy.deepcopy(model.state_dict())
    try:
        fisher_diagonal(model, TensorDataset(X))
    except (ValueError, RuntimeError) as error:
        assert str(error)  # noqa: PT017
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} is off by {(value - before[name]).abs().max():.3g}"


# ------------------------------------------------------------------------- hooks


@pytest.mark.parametrize("path", ["auto", "vectorised", "one_at_a_time"])
@pytest.mark.parametrize("where", ["of the model", "in a closure", "of an object"])
def test_hooks_that_append_to_a_list(where, path):
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    want = expected(copy.deepcopy(model), X)
    model.gain = nn.Parameter(torch.ones(4))
    model.register_forward_hook(lambda module, args, output: output * model.gain)
    model.seen, closed, cache = [], [torch.zeros(1)], Cache()
    put = {
        "of the model": lambda module, args, output: module_list().append(output.detach()),
        "in a closure": lambda module, args, output: closed.append(output.detach()),
        "of an object": lambda module, args, output: cache.put(output),
    }[where]

    def module_list():
        return model.seen

    model[0].register_forward_hook(put)
    model(X)
    before = state_of(model)
    counts = len(model.seen), len(closed), len(cache.entries)
    got = fisher_diagonal(model, TensorDataset(X), path=path)
    assert (len(model.seen), len(closed), len(cache.entries)) == counts
    assert not differences(before, state_of(model))
    torch.save([model.seen, closed, cache.entries], io.BytesIO())
    assert got.pop("gain").any()
    assert_right(got, want)
    model(X)


# ------------------------------------------ reparametrisations that compute their weight in forward


def pruned():
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    prune.random_unstructured(model[0], "weight", amount=0.4)
    return model


def normed():
    return nn.Sequential(weight_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 4))


def parametrised():
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 4))


def pruned_and_normed():
    model = normed()
    prune.ln_structured(model[2], "weight", amount=0.5, n=2, dim=0)
    prune.random_unstructured(model[2], "bias", amount=0.5)
    return model


@pytest.mark.parametrize("path", ["auto", "vectorised", "one_at_a_time"])
@pytest.mark.parametrize("variant", ["exact", "mas"])
@pytest.mark.parametrize("build", [pruned, normed, parametrised, pruned_and_normed])
def test_weights_that_a_forward_computes(build, variant, path):
    """Before any forward and after one, so that the weight is there already."""
    for seen in (False, True):
        torch.manual_seed(0)
        model = build()
        if seen:
            with torch.no_grad():
                model(X)
        want = expected(_fresh(build), X, variant)
        before = state_of(model)
        assert_right(measure(model, TensorDataset(X), variant, path=path), want)
        assert not differences(before, state_of(model))
        torch.save(model, io.BytesIO()) if build is not parametrised else torch.save(model.state_dict(), io.BytesIO())
        model(X).sum().backward()


def _fresh(build):
    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        model(X)
    return model


@pytest.mark.parametrize("kind", [Attribute, RunningMean, InAList, InDicts, InADataclass, InAnObject])
def test_lwf_beside_a_pass(kind):
    """LwF copies the model when an experience ends."""
    torch.manual_seed(0)
    y = torch.arange(40) % 4
    whole = TensorDataset(torch.randn(40, 6) + 2.0 * F.one_hot(y, 6), y)
    whole.targets = y.tolist()
    benchmark = nc_benchmark(whole, whole, 2, task_labels=False, seed=0)
    for plugins in ([EWCPlugin(1.0), LwFPlugin()], [LwFPlugin(), MASPlugin(1.0)]):
        strategy = strategy_of(built(kind), plugins)
        for experience in benchmark.train_stream:
            strategy.train(experience)


# --------------------------------------------------------------------- stateful models


class Stateful(nn.Module):
    """Goes on from the state of the batch before."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head, self.state = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3), None

    def forward(self, x):
        out, state = self.lstm(x, self.state)
        self.state = tuple(v.detach() for v in state)
        return self.head(out[:, -1])


@pytest.mark.parametrize("path", ["auto", "one_at_a_time"])
@pytest.mark.parametrize("started", [False, True])
def test_a_stateful_lstm(started, path):
    """Numbers, or an error that says what cannot be measured; its state is as before."""
    torch.manual_seed(0)
    model, x = Stateful(), torch.randn(16, 5, 4)
    if started:
        model(x[:8])
    before = state_of(model)
    try:
        got = fisher_diagonal(model, DataLoader(TensorDataset(x), batch_size=8), path=path)
    except ValueError as error:
        if "sample" not in str(error) and "state" not in str(error):
            raise AssertionError(f"it does not say what cannot be measured: {error}") from error
    else:
        assert all(value.isfinite().all() for value in got.values())
        if not started:
            fresh = copy.deepcopy(model)

            def alone(m, v):
                m.state = None
                return m(v)

            assert_right(got, expected(fresh, x, outputs=alone))
    assert not differences(before, state_of(model))
    model(x[:8])


class Echo(nn.Module):
    """Adds what the pass before put out, if that was of the same shape."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Linear(6, 4), None

    def forward(self, x):
        z = self.layer(x)
        if self.last is not None and self.last.shape == z.shape:
            z = z + self.last
        self.last = z.detach()
        return z


def test_a_model_whose_output_depends_on_the_pass_before():
    """Its numbers depend on the order of passes: they are right from the state that it is in, or refused."""
    torch.manual_seed(0)
    model = Echo()
    before = state_of(model)

    def alone(m, v):
        m.last = None
        return m(v)

    want = expected(model, X, outputs=alone)
    try:
        got = fisher_diagonal(model, DataLoader(TensorDataset(X), batch_size=5))
    except ValueError as error:
        assert str(error)  # noqa: PT017
    else:
        assert_right(got, want)
    assert not differences(before, state_of(model))


# ---------------------------------------------------------------- the random states of loaders


class NoisyItems(Dataset):
    """Draws in each item, from every global generator."""

    def __len__(self):
        return 20

    def __getitem__(self, n):
        return X[n] + 0.01 * torch.randn(6) + 0.01 * random.random() + 0.01 * np.random.rand(), Y[n]


class NoisySampler(Sampler):
    """Shuffles by Python's and numpy's global generators."""

    def __iter__(self):
        order = list(np.random.permutation(20))
        random.shuffle(order)
        return iter([int(n) for n in order])

    def __len__(self):
        return 20


class OwnSampler(Sampler):
    """Holds generators of its own."""

    def __init__(self):
        self.generator, self.random = np.random.default_rng(3), random.Random(3)

    def __iter__(self):
        order = self.generator.permutation(20).tolist()
        self.random.shuffle(order)
        return iter(order)

    def __len__(self):
        return 20


def seeded():
    return torch.Generator().manual_seed(11)


DATA = TensorDataset(X, Y)
LOADERS = {
    "shuffled": lambda: DataLoader(DATA, 4, shuffle=True),
    "in order": lambda: DataLoader(DATA, 4),
    "with a generator": lambda: DataLoader(DATA, 4, shuffle=True, generator=seeded()),
    "random sampler": lambda: DataLoader(DATA, 4, sampler=RandomSampler(DATA)),
    "random sampler with a generator": lambda: DataLoader(DATA, 4, sampler=RandomSampler(DATA, generator=seeded())),
    "weighted sampler": lambda: DataLoader(DATA, 4, sampler=WeightedRandomSampler(torch.ones(20), 20)),
    "weighted sampler with a generator": lambda: DataLoader(
        DATA, 4, sampler=WeightedRandomSampler(torch.ones(20), 20, generator=seeded())
    ),
    "batch sampler": lambda: DataLoader(
        DATA, batch_sampler=BatchSampler(RandomSampler(DATA, generator=seeded()), 4, drop_last=False)
    ),
    "noisy sampler": lambda: DataLoader(DATA, 4, sampler=NoisySampler()),
    "own sampler": lambda: DataLoader(DATA, 4, sampler=OwnSampler()),
    "noisy items": lambda: DataLoader(NoisyItems(), 4, shuffle=True),
    "workers": lambda: DataLoader(DATA, 4, shuffle=True, num_workers=1),
    "persistent workers": lambda: DataLoader(
        DATA, 4, shuffle=True, num_workers=1, persistent_workers=True, generator=seeded()
    ),
}


def generators_of(loader):
    """States of all generators that a loader and its samplers hold."""
    holders = [loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)]
    found = {}
    for number, name in itertools.product(range(len(holders)), ("generator", "random")):
        value = getattr(holders[number], name, None)
        if isinstance(value, torch.Generator):
            found[f"{number}.{name}"] = value.get_state().tolist()
        elif isinstance(value, np.random.Generator):
            found[f"{number}.{name}"] = str(value.bit_generator.state)
        elif value is not None:
            found[f"{number}.{name}"] = value.getstate()
    return found


@pytest.mark.parametrize("n_samples", [None, 6])
@pytest.mark.parametrize("how", LOADERS)
def test_no_generator_moves_when_a_loader_is_read(how, n_samples):
    """The next epoch is the one that would have come."""
    model, loader = nn.Linear(6, 4), LOADERS[how]()
    process, own = process_state(), generators_of(loader)
    fisher_diagonal(model, loader, n_samples=n_samples)
    assert not differences(process, process_state())
    assert not differences(own, generators_of(loader))
    after = [y.tolist() for _, y in loader]
    torch.manual_seed(0)
    assert sum(map(len, after)) == 20


def test_no_generator_moves_when_reading_fails():
    class Fails(NoisyItems):
        def __getitem__(self, n):
            if n == 13:
                raise OSError("the disk is gone")
            return super().__getitem__(n)

    model, loader = nn.Linear(6, 4), DataLoader(Fails(), 4, shuffle=True, generator=seeded())
    process, own = process_state(), generators_of(loader)
    with pytest.raises(OSError, match="disk"):
        fisher_diagonal(model, loader)
    assert not differences(process, process_state())
    assert not differences(own, generators_of(loader))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_no_generator_moves_when_a_dataset_is_read(num_workers):
    model = nn.Linear(6, 4)
    process = process_state()
    for options in ({}, {"n_samples": 5}, {"variant": "sample", "draws": 2}):
        fisher_diagonal(model, NoisyItems(), num_workers=num_workers, **options)
        assert not differences(process, process_state()), options


def test_the_pass_gives_the_same_numbers_twice_on_a_shuffled_loader():
    """Since nothing moved, the second pass reads the same first samples."""
    model, loader = nn.Linear(6, 4), LOADERS["shuffled"]()
    first, second = (fisher_diagonal(model, loader, n_samples=6) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
