"""What ``torch.func`` misses or must not touch: aliases of parameters, assigned data, a model's own transforms."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import grad, jvp, vmap
from torch.nn.utils import parametrize
from torch.utils.data import TensorDataset

from clreg_plugins import fisher_diagonal, kronecker_factors
from tests.kinds.comparison import assert_right, expected, measure

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
WAYS = [("exact", "auto"), ("exact", "one_at_a_time"), ("mas", "auto")]


class Aliased(nn.Module):
    """Reaches its weight by a list, a dict or a closure, and by its name, too."""

    def __init__(self, by="list", named=False):
        super().__init__()
        self.w, self.gain, self.head = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.ones(5)), nn.Linear(5, 3)
        w = self.w
        self.alias = {"list": [w], "dict": {"w": w}, "closure": lambda: w}[by]
        self.by, self.named = by, named

    def forward(self, x):
        w = {"list": lambda a: a[0], "dict": lambda a: a["w"], "closure": lambda a: a()}[self.by](self.alias)
        h = (x @ w).tanh()
        if self.named:
            h = h + (0.5 * x @ self.w).tanh()
        return self.head(h * self.gain)


@pytest.mark.parametrize(("variant", "path"), WAYS)
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("by", ["list", "dict", "closure"])
def test_a_parameter_by_another_way_than_its_name(by, named, variant, path):
    torch.manual_seed(0)
    model = Aliased(by, named)
    same = Aliased("list", named)  # a deepcopy's closure would hold the weight of the original
    same.load_state_dict(model.state_dict())
    assert_right(measure(model, TensorDataset(X), variant, path=path), expected(same, X, variant))


def test_the_factors_of_a_model_with_an_alias():
    torch.manual_seed(0)
    model = Aliased()
    found = kronecker_factors(model, TensorDataset(X))
    assert_right({"w": found.diagonal["w"]}, {"w": expected(model, X)["w"]})


def test_a_vectorised_path_that_would_miss_an_alias_is_refused():
    with pytest.raises(ValueError, match=r"path is 'vectorised', but .* gradients of w differ from autograd's"):
        fisher_diagonal(Aliased(), TensorDataset(X), path="vectorised")


@pytest.mark.parametrize("without", [slice(0, 1), slice(0, 3), slice(0, 8), slice(1, 12)])
def test_an_alias_that_some_samples_do_not_reach(without):
    class Gated(Aliased):
        def forward(self, x):
            return self.head((x[:, :5] + x[:, 5:] * (x @ self.alias[0]).tanh()) * self.gain)

    torch.manual_seed(0)
    model, x = Gated(), X.clone()
    x[without, 5] = 0
    assert_right(fisher_diagonal(model, TensorDataset(x), batch_size=4), expected(model, x))


@pytest.mark.parametrize("cached", [False, True])
def test_parametrizations_with_and_without_their_cache(cached):
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 3))
    want = expected(model, X)
    with parametrize.cached() if cached else contextlib.nullcontext():
        got = fisher_diagonal(model, TensorDataset(X))
    assert_right(got, want)


class AssignsData(nn.Module):
    """Normalises its classifier, or follows a mean, by assigning to ``data``."""

    def __init__(self, what):
        super().__init__()
        self.first, self.gain, self.head = nn.Linear(6, 5), nn.Parameter(torch.ones(5)), nn.Linear(5, 3)
        self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)
        self.register_buffer("mean", torch.zeros(5))
        self.kept, self.what = torch.zeros(5), what

    def forward(self, x):
        h = self.first(x).tanh()
        if self.what == "parameter":
            self.head.weight.data = F.normalize(self.head.weight.data, dim=1)
        elif self.what == "frozen parameter":
            self.frozen.data = self.frozen.data * 0.9
        elif self.what == "buffer":
            self.mean.data = 0.9 * self.mean.data + 0.1 * h.mean(0).detach()
        else:
            self.kept.data = h.mean(0).detach()
        return self.head(h * self.gain)


@pytest.mark.parametrize(("variant", "path"), WAYS)
@pytest.mark.parametrize("what", ["parameter", "frozen parameter", "buffer", "plain tensor"])
def test_a_forward_that_assigns_to_data(what, variant, path):
    torch.manual_seed(0)
    model = AssignsData(what)
    with torch.no_grad():
        if what == "parameter":  # so that normalising it changes nothing
            model.head.weight.copy_(F.normalize(model.head.weight, dim=1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    want = expected(model, X, variant)
    got = measure(model, TensorDataset(X), variant, path=path)
    assert_right({name: got[name] for name in want}, want)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    model(X).sum().backward()


class Transforms(nn.Module):
    """Calls transforms of ``torch.func`` in its own forward."""

    def __init__(self, kind):
        super().__init__()
        self.w, self.head, self.kind = nn.Parameter(torch.randn(4, 6, 5)), nn.Linear(5, 3), kind

    def forward(self, x):
        if self.kind == "vmap over members":
            return self.head(vmap(lambda w: (x @ w).tanh())(self.w).mean(0))
        if self.kind == "vmap over samples":
            return self.head(vmap(lambda v: v.tanh() * 2)(x) @ self.w[0])
        if self.kind == "jvp":
            return self.head(jvp(lambda v: v.tanh() ** 2, (x,), (torch.ones_like(x),))[1] @ self.w[0])
        energy = vmap(grad(lambda v: F.softplus(v @ self.w[0]).sum()))
        return self.head(energy(x) @ self.w[1])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # by jvp itself
@pytest.mark.parametrize(("variant", "path"), [*WAYS, ("batched", "auto")])
@pytest.mark.parametrize("kind", ["vmap over members", "vmap over samples", "jvp", "grad"])
def test_a_forward_with_transforms_of_its_own(kind, variant, path):
    torch.manual_seed(0)
    model, y = Transforms(kind), torch.arange(12) % 3
    if variant == "batched":
        got = fisher_diagonal(model, TensorDataset(X, y), variant=variant, batch_size=1)
        assert_right(got, expected(model, X, "empirical", y))
    else:
        assert_right(measure(model, TensorDataset(X), variant, path=path), expected(model, X, variant))
