"""Arguments outside what is allowed are refused at once, by name and value: at construction, before data is read."""

import re

import pytest
from torch import nn

import clreg_plugins
from clreg_plugins import checks
from tests.arguments import CALLS, DATA, PLUGINS, Untouched, arguments_of, bad_values, named, public

ARGUMENTS = [(name, argument) for name in CALLS for argument in arguments_of(name)]


def test_everything_public_is_looked_at():
    assert set(public()) - set(CALLS) == set(), "say in tests/arguments.py how these are called"


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS, ids=[f"{n}({a})" for n, a in ARGUMENTS])
def test_an_argument_outside_what_is_allowed(name, argument):
    for value in bad_values(name, argument):
        call = CALLS[name]()
        arguments = call.arguments | {argument: value}
        if arguments.get("data") is DATA:
            arguments["data"] = Untouched(*DATA.tensors)
        try:
            call.function(**arguments)
        except (ValueError, TypeError) as error:
            message = str(error)
        else:
            pytest.fail(f"{name} takes {argument}={checks.shown(value)}")
        assert says_what_is_allowed(message, argument), f"{name}({argument}={checks.shown(value)}): {message}"


def says_what_is_allowed(message: str, *arguments: str) -> bool:
    """Whether it names one of the arguments, and what is allowed."""
    names = any(re.search(rf"\b{named(argument)}\b", message, re.IGNORECASE) for argument in arguments)
    return names and len(message) < 1000 and re.search("allowed|expected|known|need|must", message) is not None


@pytest.mark.parametrize("name", [*PLUGINS, "fisher_diagonal", "kronecker_factors", "mas_importance"])
def test_an_option_that_there_is_not_is_named(name):
    call = CALLS[name]()
    with pytest.raises(TypeError, match="batchsize"):
        call.function(**call.arguments, batchsize=3)


@pytest.mark.parametrize("function", [clreg_plugins.fisher_diagonal, clreg_plugins.mas_importance])
def test_what_is_allowed_at_its_limits(function):
    options = {"seed": (0, 2**63 - 1), "max_bytes": (1, 2**63 - 1), "n_samples": (None, 2**63 - 1)}
    options |= {"batch_size": (None, 1, 2**63 - 1), "forward": (None,), "unpack": (None,)}
    for option, values in options.items():
        for value in values:
            assert function(nn.Linear(3, 2), DATA, **{option: value})["weight"].any()


def test_values_of_any_kind_can_be_shown():
    class Silent:
        def __repr__(self):
            raise RuntimeError

    assert checks.shown(Silent()) == "of type Silent"
    assert checks.shown(10**5000) == "of type int"
    assert len(checks.shown("x" * 10**6)) < 300
