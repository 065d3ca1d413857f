"""Calls, terms and states with values drawn from a pool of good and bad: an error that names what is wrong, or numbers.

``CLREG_FUZZ=100000`` sets the number of examples of each test, ``CLREG_FUZZ_SEED`` the first of their seeds.
"""

import copy
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clreg_plugins import Factors, KroneckerPenalty, QuadraticPenalty
from clreg_plugins.checks import shown
from tests import kronecker_terms, penalties
from tests.arguments import CALLS, PLUGINS, arguments_of, bad_values, plugin_with_terms
from tests.fuzzing import count_example
from tests.penalties import assert_unchanged, everything
from tests.test_arguments import says_what_is_allowed

EXAMPLES = int(os.environ.get("CLREG_FUZZ", "100"))
SEED = int(os.environ.get("CLREG_FUZZ_SEED", "0"))

REFUSALS = (ValueError, TypeError, FloatingPointError)


def seeds() -> Iterator[int]:
    for seed in range(SEED, SEED + EXAMPLES):
        count_example()
        yield seed


def assert_finite(found: Any, what: str = "the result") -> None:
    """Every number in a nest of dicts, tuples and tensors; tensors without a graph."""
    if isinstance(found, Tensor):
        assert found.device.type != "meta", f"{what} holds no numbers"
        assert torch.isfinite(found).all(), f"{what} is {found}"
    elif isinstance(found, Mapping):
        for name, value in found.items():
            assert_finite(value, f"{what}[{name!r}]")
    elif isinstance(found, (tuple, list)):
        for value in found:
            assert_finite(value, what)
    elif isinstance(found, float):
        assert math.isfinite(found), f"{what} is {found}"


# ----------------------------------------------------------------------------- calls

GOOD = {
    "reg_lambda": [0, 1, 2.5, np.float32(3), 3.4e38],
    "fisher": ["exact", "sample", "predicted", "empirical", "batched"],
    "variant": ["exact", "sample", "predicted", "empirical", "batched"],
    "likelihood": ["categorical", "bernoulli"],
    "draws": [1, 3],
    "class_dim": [1, -1, 7],
    "ignore_index": [-100, 0, 2**63 - 1, -(2**63)],
    "consolidation": ["experience", "manual"],
    "n_samples": [None, 1, 4, 2**63 - 1],
    "batch_size": [1, 4, 2**63 - 1],
    "seed": [0, 5, 2**63 - 1],
    "num_workers": [0],
    "max_bytes": [1, 2**30, 2**63 - 1],
    "max_width": [1, 3, 2**63 - 1],
    "gamma": [0, 0.5, 1],
    "weight_sharing": ["expand", "reduce"],
    "output": ["squared_norm", "mean_square", "vector"],
    "accumulate": ["average", "sum"],
    "per_sample": [True, False],
    "mask_value": [None, -1000.0, 0, -3.4e38],
    "xi": [0.1, 2e-38, 3e38],
    "gradient": ["task", "total"],
    "clip": [True, False],
    "path": ["auto", "vectorised", "one_at_a_time"],
}
FUNCTIONS = ("fisher_diagonal", "kronecker_factors", "mas_importance", "quadratic_picture")


@pytest.mark.parametrize("names", [PLUGINS, FUNCTIONS], ids=["plugins", "functions"])
def test_a_call_is_refused_by_name_or_works(names):
    for seed in seeds():
        draw = random.Random(seed)
        name = draw.choice(names)
        call = CALLS[name]()
        free = [argument for argument in arguments_of(name) if argument in GOOD]
        given = draw.sample(free, draw.randint(1, min(4, len(free))))
        changes = {a: draw.choice(GOOD[a] if draw.random() < 0.8 else bad_values(name, a)) for a in given}
        if name in FUNCTIONS and changes.get("likelihood") == "bernoulli":
            changes["likelihood"] = "categorical"  # which the data is for
        what = f"seed {seed}: {name}({', '.join(f'{a}={shown(v)}' for a, v in changes.items())})"
        try:
            result = call.function(**call.arguments | changes)
        except (ValueError, TypeError) as error:
            assert_says_what_is_allowed(error, changes, what)
            continue
        if name in PLUGINS:
            result = result.state_dict()
        assert_finite(vars(result) if name == "quadratic_picture" else result, what)


def assert_says_what_is_allowed(error: Exception, arguments: Mapping[str, Any], what: str) -> None:
    assert says_what_is_allowed(str(error), *arguments), f"{what}: {error}"


# ------------------------------------------------------------------- tensors, changed


def one_entry(value: float) -> Callable[[Tensor], Tensor]:
    def change(t: Tensor) -> Tensor:
        t = t.clone(memory_format=torch.contiguous_format)
        if t.numel():
            t.view(-1)[-1] = value
        return t

    return change


CHANGES: dict[str, Callable[[Any], Any]] = {  # of a tensor, a number or a name in a state
    "None": lambda _: None,
    "True": lambda _: True,
    "a number": lambda _: 1.5,
    "a negative number": lambda _: -2,
    "a huge int": lambda _: 10**400,
    "NaN": lambda _: math.nan,
    "bytes": lambda _: b"state",
    "a name": lambda _: "weight",
    "a list": lambda _: [1.0],
    "an empty dict": lambda _: {},
    "a dict by number": lambda _: {1: torch.ones(2)},
    "an array": lambda _: np.ones((2, 3)),
}
OF_TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "a NaN": one_entry(math.nan),
    "an infinity": one_entry(-math.inf),
    "negative": one_entry(-3.0),
    "huge": lambda t: one_entry(1e300)(t.double()),
    "beyond float32": lambda t: t.double() * 1e39,
    "large": lambda t: t * 1e30,
    "on meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse() if t.ndim else t.to("meta"),
    "int": lambda t: t.long(),
    "bool": lambda t: t.bool(),
    "complex": lambda t: t.to(torch.complex64),
    "half": lambda t: t.half(),
    "float8": lambda t: t.to(torch.float8_e5m2),
    "float32": lambda t: t.float(),
    "another shape": lambda t: t.unsqueeze(0),
    "not contiguous": lambda t: torch.stack([t, t], dim=-1)[..., 0],
    "expanded": lambda t: t.flatten()[:1].expand(t.numel()).reshape(t.shape) if t.numel() else t,
    "with a graph": lambda t: t.clone().requires_grad_() * 1,
    "a parameter": lambda t: nn.Parameter(t.clone()),
}


def changed(draw: random.Random, value: Any) -> tuple[str, Any]:
    """The name of a change, and the changed value."""
    pool = OF_TENSORS if isinstance(value, Tensor) and draw.random() < 0.8 else CHANGES
    how = draw.choice(list(pool))
    return how, pool[how](value)


def spoil(draw: random.Random, tree: Any, path: tuple[str, ...] = ()) -> tuple[str, tuple[str, ...]]:
    """Change one entry of a nest of dicts in place; what was done, and where."""
    key = draw.choice(list(tree))
    inner = tree[key]
    if isinstance(inner, dict) and inner and draw.random() < 0.9:
        return spoil(draw, inner, (*path, key))
    how = draw.random()
    if how < 0.07:
        del tree[key]
        return "deleted", (*path, key, "deleted")
    if how < 0.1:
        tree["another"] = inner
        return "another added", (*path, "another")
    if isinstance(inner, Factors):
        field = draw.choice(Factors._fields)
        done, value = changed(draw, getattr(inner, field))
        tree[key] = inner._replace(**{field: value})
        return done, (*path, key, field)
    done, tree[key] = changed(draw, inner)
    return done, (*path, key)


OTHER_WORDS = {  # of a message, for what is at fault
    "inputs": ["A"],
    "outputs": ["G"],
    "layers": ["not all of them have"],  # of parameters that have neither factors nor an importance then
    "another": ["keys", "names", "unknown", "factors for", "anchor"],
    "deleted": ["keys", "names", "anchor", "argument"],
}


def assert_named(error: Exception, path: tuple[str, ...], what: str) -> None:
    """Whether a message says where in a nest the fault is."""
    message = str(error)
    words = [word for key in path for word in (key, *OTHER_WORDS.get(key, ()))]
    assert any(word in message for word in words), f"{what}: {message}"
    assert len(message) < 1000, f"{what}: {message}"


# ------------------------------------------------------------------------------ states


def penalty_of(name: str) -> QuadraticPenalty:
    return copy.deepcopy(consolidated(name))


@cache
def consolidated(name: str) -> QuadraticPenalty:
    return (kronecker_terms if name == "KroneckerPenalty" else penalties).consolidated()


def plugin_of(name: str) -> Any:
    return copy.deepcopy(plugin(name))


@cache
def plugin(name: str) -> Any:
    return plugin_with_terms("SIPlugin", clip=False) if name == "SI unclipped" else plugin_with_terms(name)


PENALTIES = ("QuadraticPenalty", "KroneckerPenalty")


@pytest.mark.parametrize("kind", [PENALTIES, (*PLUGINS, "SI unclipped")], ids=["penalties", "plugins"])
def test_a_state_is_refused_by_name_or_works(kind):
    for seed in seeds():
        draw = random.Random(seed)
        name = draw.choice(kind)
        loader = penalty_of(name) if name in PENALTIES else plugin_of(name)
        before, state = everything(loader), copy.deepcopy(loader.state_dict())
        done, path = spoil(draw, state)
        what = f"seed {seed}: {name}, {'.'.join(path)}: {done}"
        try:
            loader.load_state_dict(state)
        except ValueError as error:
            assert_named(error, path, what)
            assert_unchanged(loader, before)
            continue
        penalty = loader if name in PENALTIES else loader.penalty
        assert_works(penalty, what, negative=name == "SI unclipped")
        assert_unchanged(again(loader), everything(loader))


def again(loader: Any) -> Any:
    """Another one, from the state of the first."""
    other = copy.deepcopy(loader)
    other.load_state_dict(loader.state_dict())
    return other


def assert_works(penalty: QuadraticPenalty, what: str, negative: bool = False) -> None:
    """Its state is finite, of float32 or float64, without a graph; it has a value, and takes the next term."""
    state = penalty.state_dict()
    assert_finite(state, what)
    for kind in ("importance", "anchor", "constant"):
        for name, tensor in state[kind].items():
            assert tensor.dtype in (torch.float32, torch.float64), f"{what}: {kind} of {name!r} is of {tensor.dtype}"
            assert not tensor.requires_grad, f"{what}: {kind} of {name!r} has a graph"
    if not negative:
        value = penalty.value({name: anchor + 1 for name, anchor in penalty.anchor.items()})
        assert not value < 0, f"{what}: the value is {value}"
    factors = isinstance(penalty, KroneckerPenalty)
    anchor = penalty.anchor.copies()
    term = kronecker_terms.factors_of({}, 0) if factors else {name: torch.ones_like(t) for name, t in anchor.items()}
    try:
        penalty.recenter(term, anchor, clip=None)
    except FloatingPointError as error:
        assert_named(error, ("overflows",), what)
    assert_finite(penalty.state_dict(), what)


# ------------------------------------------------------------------------------- terms


def test_a_term_is_refused_by_name_or_works():
    for seed in seeds():
        draw = random.Random(seed)
        name, method = draw.choice(
            [("QuadraticPenalty", "add_term"), ("QuadraticPenalty", "recenter"), ("KroneckerPenalty", "recenter")]
        )
        penalty, term = penalty_of(name), copy.deepcopy(terms(name))
        arguments = term | {"weight": draw.choice([0, 1, 3.4e38, math.nan, 1e40])}
        done, path = spoil(draw, arguments)
        what = f"seed {seed}: {name}.{method}, {'.'.join(path)}: {done}, weight {arguments.get('weight')}"
        check_call(penalty, getattr(penalty, method), arguments, (*path, "weight", "overflows", "argument"), what)


@cache
def terms(name: str) -> dict[str, Any]:
    return CALLS[f"{name}.recenter"]().arguments


def test_parameters_are_refused_by_name_or_the_penalty_grows():
    for seed in seeds():
        draw = random.Random(seed)
        name = draw.choice(PENALTIES)
        penalty = penalty_of(name)
        theta = {"new": torch.ones(3)} | penalty.anchor.copies()
        done, path = spoil(draw, theta)
        what = f"seed {seed}: {name}.grow, {'.'.join(path)}: {done}"
        check_call(penalty, penalty.grow, {"parameters": theta}, path, what)


def check_call(
    penalty: QuadraticPenalty, method: Callable[..., Any], arguments: dict[str, Any], path: tuple[str, ...], what: str
) -> None:
    before = everything(penalty)
    try:
        method(**arguments)
    except REFUSALS as error:
        assert_named(error, path, what)
        assert_unchanged(penalty, before)
    else:
        assert_works(penalty, what)


def test_the_pool_has_every_argument_that_a_protocol_sets():
    """A new argument of a plugin is drawn, too."""
    missing = {a for name in PLUGINS for a in arguments_of(name)} - GOOD.keys()
    assert not missing, f"give good values of {missing}"
