"""Any model: the importance is that of one sample at a time in float64, or an error; and all is left as it was.

``CLREG_GENERATED=5000 pytest tests/importance/test_generated.py`` tries that many models, from a seed that it prints
and takes from ``CLREG_GENERATED_SEED``. A model that fails is printed as a :class:`Spec`, which builds it again.
"""

import contextlib
import copy
import dataclasses
import io
import math
import os
import random
import secrets
import types
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clreg_plugins import fisher_diagonal, mas_importance
from tests import oracles
from tests.importance import generator
from tests.importance.generator import BLOCKS, MAS, Broken, Spec, compare, specs
from tests.oracles import Tensors

pytestmark = [  # PyTorch's own, of what it does itself
    pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented the batching"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing"),
    pytest.mark.filterwarnings("ignore:dropout option adds dropout after all but last"),
]

EXAMPLES = int(os.environ.get("CLREG_GENERATED", "0"))


# ---------------------------------------------------------- left as it was


class State:
    """What can be reached from some objects, bit by bit: path -> what stands there."""

    def __init__(self, **roots: Any) -> None:
        self.found: dict[str, Any] = {}
        self._seen: dict[int, str] = {}
        self._kept: list[Any] = []  # so that no new object takes the identity of an old one
        for name, root in roots.items():
            self._visit(name, root)

    def _visit(self, path: str, value: Any) -> None:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)):
            self.found[path] = repr(value)
            return
        if id(value) in self._seen:
            self.found[path] = f"the same as {self._seen[id(value)]}"
            return
        self._seen[id(value)] = path
        self._kept.append(value)
        self.found[path] = type(value), id(value)
        if isinstance(value, Tensor):
            self._visit_tensor(path, value)
        elif isinstance(value, torch.Generator):
            self.found[f"{path} state"] = value.get_state().numpy().tobytes()
        elif isinstance(value, np.random.Generator):
            self.found[f"{path} state"] = repr(value.bit_generator.state)
        elif isinstance(value, np.ndarray):
            self.found[f"{path} content"] = value.tobytes()
        elif isinstance(value, Mapping):
            self.found[f"{path} keys"] = tuple(map(repr, value))
            for key, item in value.items():
                self._visit(f"{path}[{key!r}]", item)
        elif isinstance(value, (list, tuple)):
            self.found[f"{path} length"] = len(value)
            for number, item in enumerate(value):
                self._visit(f"{path}[{number}]", item)
        elif isinstance(value, (set, frozenset)):
            self.found[f"{path} content"] = tuple(sorted(map(repr, value)))
        elif not isinstance(value, (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)):
            for key, item in sorted(getattr(value, "__dict__", {}).items()):
                self._visit(f"{path}.{key}", item)
            if isinstance(value, nn.Module):
                self.found[f"{path} names"] = tuple(value.__dict__)

    def _visit_tensor(self, path: str, value: Tensor) -> None:
        assert not torch._C._functorch.is_functorch_wrapped_tensor(value), f"{path} is a tensor of functorch"
        stored = value.detach()
        bits = stored.contiguous().view(-1).view(torch.uint8) if stored.numel() else stored
        self.found[f"{path} content"] = stored.dtype, tuple(stored.shape), stored.stride(), bits.numpy().tobytes()
        self.found[f"{path} graph"] = value.requires_grad, value.is_leaf, value.is_inference()
        self.found[f"{path} hooks"] = tuple(value._backward_hooks or ())
        if value.is_leaf:
            self._visit(f"{path}.grad", value.grad)

    def difference(self, later: "State") -> list[str]:
        """Paths at which the two differ."""
        paths = [*self.found, *(path for path in later.found if path not in self.found)]
        return [path for path in paths if self.found.get(path) != later.found.get(path)]


def process() -> dict[str, Any]:
    """Random states and settings of the process, by name."""
    numpy = np.random.get_state()
    return {
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "numpy's random state": (numpy[0], numpy[1].tobytes(), *numpy[2:]),
        "python's random state": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": [(torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")],
        "autocast's cache": torch.is_autocast_cache_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "linear": id(nn.functional.linear),
        "global hooks": [len(getattr(nn.modules.module, name)) for name in _GLOBAL_HOOKS],
        "function modes": torch._C._len_torch_function_stack(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "saved tensors hooks": torch._C._autograd._top_saved_tensors_default_hooks(True),
        "warnings": list(warnings.filters),
        **{name: _setting(path) for name, path in _SETTINGS.items()},
    }


_GLOBAL_HOOKS = [name for name in vars(nn.modules.module) if name.startswith("_global_") and name.endswith("hooks")]
_SETTINGS = {
    path: path.split(".")
    for path in (
        "cudnn.enabled",
        "cudnn.benchmark",
        "cudnn.deterministic",
        "cudnn.allow_tf32",
        "cudnn.fp32_precision",
        "cudnn.conv.fp32_precision",
        "cudnn.rnn.fp32_precision",
        "cuda.matmul.allow_tf32",
        "cuda.matmul.fp32_precision",
        "cuda.matmul.allow_bf16_reduced_precision_reduction",
        "fp32_precision",
        "mkldnn.enabled",
        "mkldnn.fp32_precision",
        "mkldnn.matmul.fp32_precision",
    )
}


def _setting(path: list[str]) -> Any:
    owner: Any = torch.backends
    try:
        for name in path:
            owner = getattr(owner, name)
    except (RuntimeError, AttributeError) as error:  # the two interfaces of TF32, mixed, or one that is not there
        return str(error)
    attention = torch.backends.mha.get_fastpath_enabled()
    kernels = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()
    return owner, attention, kernels


def _copies(model: nn.Module) -> set[str]:
    """Which of the two ways to copy the model work."""
    works = set()
    for name, copied in (("deepcopy", copy.deepcopy), ("torch.save", lambda m: torch.save(m, io.BytesIO()))):
        with contextlib.suppress(RuntimeError, TypeError, AttributeError):
            copied(model)
            works.add(name)
    return works


@contextlib.contextmanager
def all_as_it_was(what: str, model: nn.Module, data: Any) -> Iterator[None]:
    """Whatever happens inside, an error too, nothing is changed afterwards."""
    copies, state, settings_before = _copies(model), State(model=model, data=data), process()
    try:
        yield
    finally:
        now = process()
        changed = [name for name in settings_before if now[name] != settings_before[name]]
        changed += state.difference(State(model=model, data=data))
        lost = copies - _copies(model)
        shown = ", ".join(changed[:8]) + (f" and {len(changed) - 8} more" if len(changed) > 8 else "")
        assert not changed, f"{what} changed {shown}"
        assert not lost, f"after {what} {' and '.join(sorted(lost))} of the model fail"


# ---------------------------------------------------------------- the check


@contextlib.contextmanager
def surroundings(kind: str) -> Iterator[None]:
    """Modes and settings around a pass that it neither follows nor changes."""
    with contextlib.ExitStack() as stack:
        if kind == "no_grad":
            stack.enter_context(torch.no_grad())
        elif kind == "inference_mode":
            stack.enter_context(torch.inference_mode())
        elif kind == "autocast":
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        elif kind == "kernels":
            stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
            stack.callback(setattr, torch.backends.cudnn, "enabled", torch.backends.cudnn.enabled)
            torch.backends.mha.set_fastpath_enabled(False)
            torch.backends.cudnn.enabled = False
        elif kind == "tf32":
            for owner in (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn):
                stack.callback(setattr, owner, "fp32_precision", owner.fp32_precision)
                owner.fp32_precision = "ieee" if owner.fp32_precision == "tf32" else "tf32"
        elif kind == "float64":
            stack.enter_context(oracles.default_dtype(torch.float64))
        yield


def importance(spec: Spec, model: nn.Module, data: Any) -> dict[str, Tensor]:
    """What ``spec`` asks for."""
    Broken.forwards = 0
    function = mas_importance if spec.measure in MAS else fisher_diagonal
    return function(model, data, **spec.options())


def check(spec: Spec) -> str:
    """Measure, look at what is left, and compare; return the outcome."""
    model, data = spec.model(), spec.data()
    found, error = None, None
    with surroundings(spec.around), all_as_it_was("the pass", model, data):
        try:
            found = importance(spec, model, data)
        except (ValueError, FloatingPointError, Broken) as caught:
            error = caught
    must, may = failures(spec)
    if error is not None:
        kinds = {reason: kind for reason, kind in (must | may).items() if isinstance(error, kind)}
        assert kinds, f"{type(error).__name__}, where numbers are to come out, or another error: {error}; {must | may}"
        return f"error: {next(iter(kinds))}"
    assert not must, f"numbers, where an error is to come out: {must}"
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, value in found.items():
        assert value.isfinite().all(), f"{name}: {value}"
        assert (value >= 0).all(), f"{name}: {value}"
    if "draws" in spec.traits or {"drops", "trains"} <= spec.traits:
        return "numbers of a model that draws"
    if spec.measure == "sample" and "mixes" in spec.traits:
        return "numbers of a model that mixes, for labels that are drawn"
    if "rounds" in spec.traits:
        compare(found, spec.reference(exactly=False).values, spec.power, 0.05, 3e-2)
    compare(found, expected(spec), spec.power, *tolerances(spec))
    return "numbers"


def failures(spec: Spec) -> tuple[dict[str, type[Exception]], dict[str, type[Exception]]]:
    """Why there must be an error, and why there may be one, with the kind of the error."""
    must: dict[str, type[Exception]] = {}
    may: dict[str, type[Exception]] = {}
    if spec.fault in ("data", "forward"):
        # the data may be read no further than its first samples, and a forward pass may be the only one
        (must if spec.fault == "data" and spec.first is None else may)[f"broken {spec.fault}"] = Broken
    if "mixes" in spec.traits and spec.samples > 1 and not spec.batchwise:
        may["samples mix"] = ValueError
    if "keeps" in spec.traits:
        may["a state is kept"] = ValueError
    if "trains" in spec.traits and {"draws", "drops"} & spec.traits:
        may["draws in training mode"] = ValueError
    try:
        known = "exact" if spec.measure == "sample" else spec.measure
        reference = dataclasses.replace(spec, fault="", measure=known).reference()
    except ValueError:
        (may if must else must)["the model itself fails"] = ValueError
        return must, may
    if not reference.reached:
        (may if must else must)["nothing trainable has a graph"] = ValueError
    elif spec.fault == "labels" and reference.trainable:
        must["unfit labels"] = ValueError
    return must, may


def tolerances(spec: Spec) -> tuple[float, float]:
    """Of a gradient: relative to the parameter's largest, and to the model's largest."""
    if "rounds" in spec.traits:
        return 0.15, 0.1
    return (1e-7, 1e-12) if spec.double else (3e-3, 1e-4)


def expected(spec: Spec) -> Tensors:
    """The reference's numbers; of "sample" those of the slow path in float64, which draws the same labels."""
    if spec.measure != "sample":
        return dataclasses.replace(spec, fault="").reference().values
    slow = dataclasses.replace(spec, fault="", double=True, path="one_at_a_time", max_bytes=2**30)
    return importance(slow, slow.model(), slow.data())


# ---------------------------------------------------------------- the tests


def report(spec: Spec) -> str:
    """``check``, which on a failure names the spec."""
    try:
        return check(spec)
    except Exception as error:
        error.add_note(f"reproduce: check({spec!r})")
        raise


def test_random_models():
    """Numbers that agree, or an error where the model is one that has no numbers; what the errors are is counted."""
    outcomes: Counter[str] = Counter()
    kept = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False)

    @given(specs())
    def agrees(spec: Spec) -> None:
        outcomes[report(spec)] += 1

    if EXAMPLES:
        seed = int(os.environ.get("CLREG_GENERATED_SEED") or secrets.randbits(32))
        print(f"\nCLREG_GENERATED={EXAMPLES} CLREG_GENERATED_SEED={seed}")
        agrees = hypothesis.seed(seed)(settings(kept, max_examples=EXAMPLES)(agrees))
    else:
        agrees = settings(kept, max_examples=100, derandomize=True)(agrees)
    agrees()
    tried, numbers = outcomes.total(), outcomes["numbers"]
    print("".join(f"{count:6d} {outcome}\n" for outcome, count in outcomes.most_common()))
    assert numbers >= 0.5 * tried, f"{numbers} of {tried} models gave numbers: {outcomes}"


ALONE = [(stage, name) for stage, blocks in BLOCKS.items() for name in blocks]


@pytest.mark.parametrize(("stage", "name"), ALONE, ids=[f"{name} of {stage}" for stage, name in ALONE])
def test_each_block_alone(stage, name):
    """Ten samples of which eight look alike; float64 and float32; a Fisher and MAS; without and with a bound."""
    block = {stage: (name,), "seed": 3, "samples": 10, "batch": 8, "regular": 8}
    first = Spec(**block, max_bytes=2**12)
    second = Spec(**block, double=False, form="dataset", measure="squared_norm", training="eval", gradients=True)
    if "rounds" in first.traits:
        first = dataclasses.replace(first, double=False)
    for spec in (first, second):
        outcome = report(spec)
        if not {"mixes", "keeps"} & spec.traits:
            assert outcome.startswith("numbers"), f"{spec}: {outcome}"


# -------------------------------------------------------------------- draws


class Chance(nn.Module):
    """Logits (w d, 0) with d = 0 or 2 by even chances, drawn for each sample in eval mode too."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.w, self.source = nn.Parameter(torch.tensor(1.0)), source
        self.own, self.own_numpy = torch.Generator().manual_seed(0), np.random.default_rng(0)

    def forward(self, x: Tensor) -> Tensor:
        drawn = {
            "torch": lambda: nn.functional.dropout(x, 0.5, training=True),
            "numpy": lambda: torch.from_numpy(np.random.binomial(1, 0.5, len(x)) * 2.0).to(x),
            "python": lambda: torch.tensor([2.0 * random.getrandbits(1) for _ in x]),
            "its own": lambda: 2.0 * torch.randint(0, 2, x.shape, generator=self.own),
            "its own of numpy": lambda: torch.from_numpy(self.own_numpy.binomial(1, 0.5, len(x)) * 2.0).to(x),
        }[self.source]()
        return torch.stack([self.w * drawn, torch.zeros_like(x)], dim=1)


P = 1 / (1 + math.exp(-2))  # of the first label where d = 2


@pytest.mark.parametrize("path", ["auto", "one_at_a_time"])
@pytest.mark.parametrize("source", ["torch", "numpy", "python", "its own", "its own of numpy"])
@pytest.mark.parametrize(
    ("measure", "expected"),
    [("exact", 2 * P * (1 - P)), ("empirical", 2 * (1 - P) ** 2), ("squared_norm", 4.0)],
)
def test_draws_in_forward_are_those_of_one_pass(source, path, measure, expected):
    """E over d: with independent draws for cotangent and gradient the exact Fisher is 0.36, not 0.21."""
    np.random.seed(0)
    random.seed(0)
    spec = Spec(vector=("DrawsFromTorch",), measure=measure, path=path)
    model, data = Chance(source), TensorDataset(torch.ones(300), torch.zeros(300, dtype=torch.long))
    with all_as_it_was("the pass", model, data):
        options = {key: value for key, value in spec.options().items() if key in ("variant", "output", "path")}
        found = (mas_importance if measure in MAS else fisher_diagonal)(model, data, **options)["w"]
    deviation = expected / 300**0.5  # each sample adds nothing, or twice what is expected
    assert abs(float(found) - expected) <= 5 * deviation, f"{float(found):.4f}, not {expected:.4f} ± {deviation:.4f}"


# --------------------------------------------------------------- the walker


CHANGES = {
    "a parameter, in one bit": lambda m: m.layer.weight.data[0].mul_(1 + 1e-7),
    "a parameter, replaced by its equal": lambda m: setattr(m.layer, "weight", nn.Parameter(m.layer.weight.detach())),
    "a gradient": lambda m: m.layer.weight.grad.add_(1),
    "a gradient, set": lambda m: setattr(m.layer.bias, "grad", torch.zeros(4)),
    "a buffer": lambda m: m.calls.add_(1),
    "a number": lambda m: setattr(m, "seen", 7),
    "an attribute more": lambda m: setattr(m, "more", None),
    "a list within a dict": lambda m: m.log["all"].append(1),
    "a tensor within a list": lambda m: m.log["all"][0].zero_(),
    "a mode": lambda m: setattr(m.layer, "training", False),
    "whether it is frozen": lambda m: m.layer.weight.requires_grad_(False),
    "a hook": lambda m: m.layer.register_forward_pre_hook(print),
    "a hook on a gradient": lambda m: m.layer.weight.register_hook(print),
    "a generator": lambda m: torch.rand(1, generator=m.log["draws"][0]),
    "a generator of numpy": lambda m: m.log["draws"][1].random(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_model_is_seen(change):
    model = generator.CountsCalls()
    model.layer = nn.Linear(4, 4)
    model.layer.weight.grad = torch.ones(4, 4)
    model.log = {"all": [torch.ones(2)], "draws": (torch.Generator(), np.random.default_rng(0))}
    before = State(model=model)
    assert not before.difference(State(model=model))
    CHANGES[change](model)
    assert before.difference(State(model=model)), "nothing is seen"


@pytest.mark.parametrize(
    "change",
    [
        lambda stack: torch.rand(1),
        lambda stack: np.random.random(),
        lambda stack: random.random(),
        lambda stack: stack.enter_context(torch.no_grad()),
        lambda stack: stack.enter_context(torch.inference_mode()),
        lambda stack: stack.enter_context(torch.autocast("cpu")),
        *(lambda stack, kind=kind: stack.enter_context(surroundings(kind)) for kind in ("kernels", "tf32", "float64")),
    ],
)
def test_every_change_of_the_process_is_seen(change):
    before = process()
    with contextlib.ExitStack() as stack:
        change(stack)
        assert process() != before, "nothing is seen"
