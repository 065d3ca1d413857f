"""``max_bytes`` bounds all that a pass holds beyond the model's own; out of memory halves the piece, and no more.

Memory is measured in processes of their own, forked from one that has nothing but the packages in memory.
"""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from clreg_plugins import fisher_diagonal, mas_importance
from tests.kinds.comparison import assert_right, expected, measure

PROGRAM = """
import os, resource, sys, torch
from torch import nn
from torch.utils.data import TensorDataset
from clreg_plugins.importance import fisher_diagonal, mas_importance

torch.set_num_threads(1)
BOUND = 2**26


class LanguageModel(nn.Module):
    def __init__(self, vocabulary=200, width=32):
        super().__init__()
        self.e, self.a, self.h = nn.Embedding(vocabulary, width), nn.Linear(width, width), nn.Linear(width, vocabulary)

    def forward(self, x):
        return self.h(self.a(self.e(x).cumsum(1)).tanh())


class Scaled(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.a, self.scale, self.h = nn.Linear(64, 64), nn.Parameter(torch.ones(64)), nn.Linear(64, classes)

    def forward(self, x):
        return self.h(self.a(x).tanh() * self.scale)


def mlp(classes):
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, classes)), torch.randn(256, 64), 1, classes


def cnn(classes):
    body = nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(128, classes)), torch.randn(32, 3, 32, 32), 1, classes


CASES = {
    "mlp 10": lambda: mlp(10),
    "mlp 200": lambda: mlp(200),
    "mlp 1000": lambda: mlp(1000),
    "cnn 10": lambda: cnn(10),
    "cnn 200": lambda: cnn(200),
    "bare 200": lambda: (Scaled(200), torch.randn(256, 64), 1, 200),
    "language model": lambda: (LanguageModel(), torch.randint(0, 200, (32, 8)), -1, 200),
}


def measured(case, variant):
    torch.manual_seed(0)
    model, x, class_dim, classes = CASES[case]()
    y = torch.randint(0, classes, (len(x), *x.shape[1:2]) if class_dim == -1 else (len(x),))
    data = TensorDataset(x, y)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    model(x[:2]).sum().backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if variant == "mas":
        got = mas_importance(model, data, output="vector", max_bytes=BOUND)
    else:
        got = fisher_diagonal(model, data, variant=variant, class_dim=class_dim, max_bytes=BOUND)
    assert all(value.any() for value in got.values())
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    own = 2 * sum(p.nbytes for p in model.parameters())  # the result, and what is squared to become it
    return (after - before) * 1024 - own


fisher_diagonal(nn.Linear(3, 2), TensorDataset(torch.randn(4, 3), torch.arange(4) % 2))
for words in sys.argv[1:]:
    case, variant = words.split(",")
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        os.write(writable, str(measured(case, variant)).encode())
        os._exit(0)
    os.close(writable)
    said = os.read(readable, 100).decode()
    os.waitpid(child, 0)
    print(words, said or "failed", sep="=")
"""

WANTED = [
    "mlp 10,exact", "mlp 200,exact", "mlp 1000,exact", "cnn 10,exact", "cnn 200,exact", "bare 200,exact",
    "language model,exact", "language model,empirical", "mlp 200,mas",
]  # fmt: skip


@pytest.fixture(scope="module")
def extra() -> dict[str, float]:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM, *WANTED], capture_output=True, text=True)
    found = dict(line.split("=") for line in done.stdout.splitlines() if "=" in line)
    assert set(found) == set(WANTED), done.stderr
    assert "failed" not in found.values(), f"{found}: {done.stderr}"
    return {what: float(value) for what, value in found.items()}


@pytest.mark.parametrize("what", WANTED)
def test_a_pass_keeps_to_its_bound(extra, what):
    """Within 20% of 64 MiB, where all cotangents at once take up to 2 GiB."""
    assert extra[what] < 1.2 * 2**26, f"{extra[what] / 2**20:.0f} MiB beyond the model's own under a bound of 64 MiB"


# ------------------------------------------------------------------------ out of memory


def rows_held(x: torch.Tensor) -> int:
    """How many samples a tensor holds, those that vmap hides among them."""
    hidden = x
    while torch._C._functorch.is_functorch_wrapped_tensor(hidden):
        hidden = torch._C._functorch.get_unwrapped(hidden)
    return hidden.numel() // x.shape[-1]


ON_A_CPU = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to get"
ERRORS = {
    "of a GPU": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "of a CPU": lambda: RuntimeError(f"{ON_A_CPU} 8589934592 bytes. Error code 12 (Cannot allocate memory)"),
    "of a library": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}


class Limited(nn.Module):
    """Has memory for so many samples at once."""

    def __init__(self, limit, error, bare=False, backward=False):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)
        self.scale = nn.Parameter(torch.ones(5)) if bare else 1.0
        self.limit, self.error, self.backward = limit, error, backward
        self.largest = []

    def check(self, x):
        if rows_held(x) > self.limit:
            raise ERRORS[self.error]()

    def forward(self, x):
        h = self.a(x).tanh() * self.scale
        if self.backward and h.requires_grad:
            h.register_hook(self.check)
        elif not self.backward:
            self.check(x)
        return self.b(h)


X, Y = torch.randn(40, 6, generator=torch.Generator().manual_seed(8)), torch.arange(40) % 3


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("variant", ["exact", "mas"])
@pytest.mark.parametrize("limit", [1, 3, 16])
def test_out_of_memory_in_a_forward_pass_halves_the_piece(limit, variant, error):
    """Right, and by the rules all the same."""
    model = Limited(limit, error)
    want = expected(model, X, variant)
    got = measure(model, TensorDataset(X, Y), variant)
    assert_right(got, want)
    if limit > 2:
        assert set(got.paths.values()) == {"rule"}, got.paths


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("limit", [3, 16])
def test_out_of_memory_in_a_backward_pass_halves_the_piece(limit, error):
    model = Limited(limit, error, backward=True)
    got = fisher_diagonal(model, TensorDataset(X, Y))
    assert_right(got, expected(model, X))
    assert set(got.paths.values()) == {"rule"}, got.paths


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("limit", [3, 16])
def test_out_of_memory_on_the_general_path_is_not_taken_for_cannot_be_vectorised(limit, error):
    model = Limited(limit, error, bare=True)
    got = fisher_diagonal(model, TensorDataset(X, Y))
    assert_right(got, expected(model, X))
    assert got.paths["scale"] == "vectorised", got.paths
    forced = fisher_diagonal(model, TensorDataset(X, Y), path="vectorised")
    assert_right(forced, expected(model, X))


@pytest.mark.parametrize("path", ["auto", "vectorised", "one_at_a_time"])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("error", ERRORS)
def test_memory_for_not_even_one_sample_is_the_error_that_it_is(error, bare, path):
    expected_type = torch.OutOfMemoryError if error == "of a GPU" else RuntimeError
    with pytest.raises(expected_type, match=r"memory|ALLOC_FAILED"):
        fisher_diagonal(Limited(0, error, bare=bare), TensorDataset(X, Y), path=path)


def test_another_error_is_not_taken_for_out_of_memory():
    class Breaks(Limited):
        def check(self, x):
            if rows_held(x) > 4:
                raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (40x6 and 5x5)")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        fisher_diagonal(Breaks(4, ""), DataLoader(TensorDataset(X, Y), batch_size=40))


@pytest.mark.parametrize("max_bytes", [1, 2**14])
@pytest.mark.parametrize("variant", ["exact", "sample", "predicted", "empirical", "mas"])
def test_the_bound_changes_no_number(variant, max_bytes):
    model = Limited(1000, "of a CPU", bare=True)
    wide = measure(model, TensorDataset(X, Y), variant)
    assert_right(measure(model, TensorDataset(X, Y), variant, max_bytes=max_bytes), wide, 1e-5)


def test_drawn_labels_do_not_change_when_a_piece_is_halved():
    options = {"variant": "sample", "draws": 3, "seed": 2}
    wide = fisher_diagonal(Limited(1000, "of a GPU"), TensorDataset(X, Y), **options)
    assert_right(fisher_diagonal(Limited(3, "of a GPU"), TensorDataset(X, Y), **options), wide, 1e-5)


def test_the_gradient_of_a_batch_mean_out_of_memory():
    """A batch is one whole there: right, or the error that it is."""
    data = TensorDataset(X, Y)
    for run in (
        lambda model: fisher_diagonal(model, data, variant="batched", batch_size=20),
        lambda model: mas_importance(model, data, per_sample=False, batch_size=20),
    ):
        want = run(Limited(1000, "of a GPU"))
        try:
            got = run(Limited(8, "of a GPU"))
        except torch.OutOfMemoryError:
            continue
        assert_right(got, want)
