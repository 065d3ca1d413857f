"""Arguments outside what is allowed are refused at once, by name and value, and not after an experience of training."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from clreg_plugins import EWCPlugin, MASPlugin, OnlineEWCPlugin, fisher_diagonal, mas_importance

DATA = TensorDataset(torch.randn(6, 3), torch.arange(6) % 2)
PLUGINS = [EWCPlugin, OnlineEWCPlugin, MASPlugin]
FUNCTIONS = [fisher_diagonal, mas_importance]

NEVER = [True, b"1", "1", math.nan, math.inf, 1.0, -1, [1], np.float64(1)]
TOO_LARGE = [2**64, 10**30]
NEEDS_A_NUMBER = ["seed", "max_bytes", "num_workers", "draws"]
MAY_BE_NONE = ["n_samples", "batch_size"]


def cases() -> list:
    found = [(name, value) for name in NEEDS_A_NUMBER for value in [None, *NEVER, *TOO_LARGE]]
    found += [(name, value) for name in MAY_BE_NONE for value in NEVER]
    found += [("batch_size", value) for value in TOO_LARGE]
    found += [(name, 0) for name in ("max_bytes", "draws", "batch_size", "n_samples")]
    return found


IDS = [f"{name} {value!r}" for name, value in cases()]


def said(name: str, value: object) -> str:
    """What the message holds: the name, the value, and what is allowed."""
    return f"{re.escape(name)} is {re.escape(repr(value))}; allowed"


@pytest.mark.parametrize(("name", "value"), cases(), ids=IDS)
@pytest.mark.parametrize("kind", PLUGINS)
def test_plugins_refuse_at_construction(kind, name, value):
    if kind is MASPlugin and name == "draws":
        pytest.skip("MAS draws no labels")
    with pytest.raises(ValueError, match=said(name, value)):
        kind(1.0, **{name: value})


class Untouched(TensorDataset):
    """Data that must not be read, since the arguments are looked at first."""

    def __getitem__(self, n):
        raise AssertionError("the data was read before the arguments were checked")


@pytest.mark.parametrize(("name", "value"), cases(), ids=IDS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_refuse_before_they_read_data(function, name, value):
    if function is mas_importance and name == "draws":
        pytest.skip("MAS draws no labels")
    with pytest.raises(ValueError, match=said(name, value)):
        function(nn.Linear(3, 2), Untouched(*DATA.tensors), **{name: value})


@pytest.mark.parametrize("value", [0, True, False, None, 1.0, "1", math.nan, b"1", 2**70])
def test_a_class_dimension_is_a_number_of_a_dimension_behind_the_samples(value):
    with pytest.raises(ValueError, match=said("class_dim", value)):
        fisher_diagonal(nn.Linear(3, 2), Untouched(*DATA.tensors), class_dim=value)
    with pytest.raises(ValueError, match=said("class_dim", value)):
        EWCPlugin(1.0, class_dim=value)


@pytest.mark.parametrize("value", [True, None, 1.0, "1", math.nan, b"1", 2**70])
def test_an_ignored_index_is_a_whole_number(value):
    with pytest.raises(ValueError, match=said("ignore_index", value)):
        fisher_diagonal(nn.Linear(3, 2), Untouched(*DATA.tensors), ignore_index=value)


@pytest.mark.parametrize("name", ["forward", "unpack"])
@pytest.mark.parametrize("value", [3, "model", True, ()])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_called_must_be_callable(function, value, name):
    with pytest.raises((ValueError, TypeError), match=name):
        function(nn.Linear(3, 2), Untouched(*DATA.tensors), **{name: value})


@pytest.mark.parametrize("name", ["distributed", "per_sample"])
@pytest.mark.parametrize("value", [1, 0, None, "yes", b"", math.nan])
def test_what_is_true_or_false_is_nothing_else(value, name):
    with pytest.raises(ValueError, match=said(name, value)):
        mas_importance(nn.Linear(3, 2), Untouched(*DATA.tensors), **{name: value})


@pytest.mark.parametrize("value", [math.nan, True, b"1", "x", [1.0], 1j])
def test_a_mask_value_is_a_number(value):
    with pytest.raises(ValueError, match="mask_value"):
        mas_importance(nn.Linear(3, 2), Untouched(*DATA.tensors), mask_value=value)


@pytest.mark.parametrize("value", ["Exact", None, True, 3, b"exact", ["exact"], {"exact"}])
@pytest.mark.parametrize("name", ["variant", "likelihood", "path"])
def test_a_choice_is_one_of_its_names(name, value):
    """One that cannot be hashed is refused as the others are."""
    with pytest.raises(ValueError, match=said(name, value)):
        fisher_diagonal(nn.Linear(3, 2), Untouched(*DATA.tensors), **{name: value})


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_option_that_there_is_not_is_named(function):
    with pytest.raises(TypeError, match="batchsize"):
        function(nn.Linear(3, 2), DATA, batchsize=3)
    for kind in PLUGINS:
        with pytest.raises(TypeError, match="batchsize"):
            kind(1.0, batchsize=3)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_allowed_at_its_limits(function):
    for options in ({"seed": 0}, {"seed": 2**31}, {"max_bytes": 1}, {"n_samples": 100}, {"batch_size": 1}):
        assert function(nn.Linear(3, 2), DATA, **options)["weight"].any()
    for options in ({"n_samples": None, "batch_size": None}, {"forward": None, "unpack": None}):
        assert function(nn.Linear(3, 2), DATA, **options)["weight"].any()
