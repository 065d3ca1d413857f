"""Everything public that can be called, with arguments that work, and values for these arguments that do not."""

import inspect
import math
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import clreg_plugins
from clreg_plugins import Factors, Importance, KroneckerFactors, KroneckerPenalty, LayerRule, QuadraticPenalty
from clreg_plugins.importance import path_integral
from tests import kronecker_terms, penalties

DATA = TensorDataset(torch.randn(6, 3), torch.arange(6) % 2)
THETA = {"weight": torch.ones(2, 3)}


class Untouched(TensorDataset):
    """Data that must not be read, since the arguments are looked at first."""

    def __getitem__(self, n: int) -> Any:
        raise AssertionError("the data was read before the arguments were checked")


class Call(NamedTuple):
    """A function, and arguments that it takes."""

    function: Callable[..., Any]
    arguments: dict[str, Any]


def on_data(function: Callable[..., Any], **arguments: Any) -> Callable[[], Call]:
    return lambda: Call(function, {"model": nn.Linear(3, 2), "data": DATA} | arguments)


def of_diagonal(method: str, **arguments: Any) -> Callable[[], Call]:
    """A method of a penalty that has terms."""
    return lambda: Call(getattr(penalties.consolidated(), method), {n: value() for n, value in arguments.items()})


def of_factors(method: str, **arguments: Any) -> Callable[[], Call]:
    return lambda: Call(getattr(kronecker_terms.consolidated(), method), {n: value() for n, value in arguments.items()})


def of_plugin(name: str, method: str) -> Callable[[], Call]:
    def call() -> Call:
        plugin = plugin_with_terms(name)
        return Call(getattr(plugin, method), {"state": plugin.state_dict()} if method == "load_state_dict" else {})

    return call


def plugin_with_terms(name: str, **options: Any) -> Any:
    """A plugin whose penalty has terms, and that would go on in the middle of an experience."""
    plugin = getattr(clreg_plugins, name)(1.0, **options)
    plugin.penalty = kronecker_terms.consolidated() if name == "KFACPlugin" else penalties.consolidated()
    if name == "SIPlugin":
        plugin._omega = plugin._omega.grown(plugin.penalty.importance.places)
    return plugin


class ScaleRule(LayerRule):
    parameters = ("scale",)


def rule_of(parameters: Any) -> LayerRule:
    rule = ScaleRule()
    rule.parameters = parameters
    return rule


PLUGINS = ("EWCPlugin", "KFACPlugin", "L2Plugin", "MASPlugin", "OnlineEWCPlugin", "SIPlugin")
TERM = {"importance": lambda: penalties.random_term(1)[0], "anchor": lambda: penalties.random_term(1)[1]}
FACTOR_TERM = {
    "importance": lambda: kronecker_terms.term(1),
    "anchor": lambda: kronecker_terms.detached(kronecker_terms.parameters()),
}
AT = {"parameters": penalties.parameters, "strength": lambda: 2.0}
AT_FACTORS = {"parameters": kronecker_terms.parameters, "strength": lambda: 2.0}

CALLS: dict[str, Callable[[], Call]] = {
    **{name: lambda name=name: Call(getattr(clreg_plugins, name), {"reg_lambda": 1.0}) for name in PLUGINS},
    **{
        f"{name}.{method}": of_plugin(name, method) for name in PLUGINS for method in ("consolidate", "load_state_dict")
    },
    "KroneckerPenalty": lambda: Call(KroneckerPenalty, {}),
    "KroneckerFactors": lambda: Call(KroneckerFactors, {"layers": {}, "importance": Importance({}, {})}),
    "agreement": lambda: Call(clreg_plugins.agreement, {"a": THETA, "b": THETA}),
    "fisher_diagonal": on_data(clreg_plugins.fisher_diagonal),
    "from_avalanche": lambda: Call(clreg_plugins.from_avalanche, {}),
    "kronecker_factors": on_data(clreg_plugins.kronecker_factors),
    "mas_importance": on_data(clreg_plugins.mas_importance),
    "quadratic_picture": on_data(
        clreg_plugins.quadratic_picture, anchor=THETA, points=[THETA], curvatures={"exact": THETA}
    ),
    "register_layer_rule": lambda: Call(clreg_plugins.register_layer_rule, {"kind": nn.Linear, "rule": ScaleRule()}),
    "path_integral.accumulate": lambda: Call(
        path_integral.accumulate, {name: torch.zeros(3) for name in ("omega", "gradient", "decrease")}
    ),
    "path_integral.importance": lambda: Call(
        path_integral.importance, {"omega": torch.zeros(3), "displacement": torch.zeros(3), "xi": 0.1}
    ),
    "QuadraticPenalty.grow": of_diagonal("grow", parameters=penalties.parameters),
    "QuadraticPenalty.add_term": of_diagonal("add_term", **TERM),
    "QuadraticPenalty.recenter": of_diagonal("recenter", **TERM),
    "QuadraticPenalty.step": of_diagonal("step", **AT),
    "QuadraticPenalty.value": of_diagonal("value", parameters=penalties.parameters),
    "QuadraticPenalty.loss_term": of_diagonal("loss_term", **AT),
    "QuadraticPenalty.differentiable": of_diagonal(
        "differentiable",
        parameters=penalties.parameters,
        step=lambda: penalties.consolidated().step(penalties.parameters(), 1.0),
    ),
    "QuadraticPenalty.load_state_dict": of_diagonal(
        "load_state_dict", state=lambda: penalties.consolidated().state_dict()
    ),
    "KroneckerPenalty.recenter": of_factors("recenter", **FACTOR_TERM),
    "KroneckerPenalty.step": of_factors("step", **AT_FACTORS),
}

RESULTS = {"Agreement", "Factors", "Importance", "QuadraticPicture"}  # made by functions; checked where they are used
NOT_CALLED = RESULTS | {"PassOptions", "ReadingOptions", "RegularizationPlugin", "LayerRule", "__version__"}
REFUSED_WHOLE = {"KroneckerPenalty.add_term"}  # not offered


def public() -> Iterator[str]:
    """Names of what can be called: functions, classes that take arguments, and their methods that do."""
    yield from ("path_integral.accumulate", "path_integral.importance")
    for name in clreg_plugins.__all__:
        thing = getattr(clreg_plugins, name)
        if name in NOT_CALLED:
            continue
        if not isinstance(thing, type) or inspect.signature(thing).parameters:
            yield name
        for method in vars(thing) if isinstance(thing, type) else ():
            if is_ours(thing, method) and f"{name}.{method}" not in REFUSED_WHOLE:
                yield f"{name}.{method}"
        if isinstance(thing, type) and issubclass(thing, SupervisedPlugin):
            yield from (
                f"{name}.{method}" for method in vars(clreg_plugins.RegularizationPlugin) if is_ours(thing, method)
            )


def is_ours(kind: type, method: str) -> bool:
    """Whether a method takes arguments, and is no callback of Avalanche's."""
    function = getattr(kind, method)
    if method.startswith(("_", "before_", "after_")) or not inspect.isfunction(function):
        return False
    return len(inspect.signature(function).parameters) > 1


def arguments_of(name: str) -> dict[str, tuple[Any, Any]]:
    """Annotation and default of every argument, those of ``**options`` too."""
    function = CALLS[name]().function
    found = {}
    for argument, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            (options,) = typing.get_args(parameter.annotation)
            found |= {option: (kind, ...) for option, kind in typing.get_type_hints(options).items()}
        else:
            found[argument] = parameter.annotation, parameter.default
    if name == "kronecker_factors":
        del found["path"]  # not among its options
    if name.endswith(".consolidate"):
        del found["data"]  # what the functions that measure an importance take; L2 and SI read none
    return found


# ---------------------------------------------------------------------------- values

TENSORS_THAT_HOLD_NO_NUMBERS = [
    torch.zeros(2, 3, device="meta"),
    torch.zeros(2, 3).to_sparse(),
    torch.zeros(2, 3, dtype=torch.int64),
    torch.zeros(2, 3, dtype=torch.bool),
    torch.zeros(2, 3, dtype=torch.complex64),
]
NOT_A_MAPPING = [3, "x", b"x", [1.0], torch.ones(2), {1: torch.ones(2, 3)}]
NO_TENSOR = [None, 1.0, [1.0], "x", *TENSORS_THAT_HOLD_NO_NUMBERS]

OF_TYPE: dict[Any, list[Any]] = {  # no value of an argument of that type
    bool: [0, 1, "True", b"1", math.nan, [True], np.bool_(True)],
    int: [True, 1.0, "1", b"1", math.nan, math.inf, [1], np.float64(1), 2**63, 2**64, 10**30, 10**5000, -(2**63) - 1],
    float: [True, "1", b"1", b"", math.nan, math.inf, -math.inf, 1e40, 10**400, 10**5000, 1j, {"a": 1}],
    str: [True, 3, math.nan, "unknown", "Exact", b"exact", ["exact"], {"exact"}],
    Callable: [3, "model", True, ()],
    nn.Module: [3, "model", b"model", nn.Linear, [nn.Linear(3, 2)]],
    Tensor: [3, "x", [1.0], torch.zeros(4)],
}
OF_TENSORS = [*NOT_A_MAPPING, *({"weight": value} for value in NO_TENSOR)]
NO_DATA = [7, "data", b"data", {"x": 1}, TensorDataset, iter([])]
NO_STATE = [*NOT_A_MAPPING, {}, {"importance": {}}]

OF_NAME: dict[str, list[Any]] = {  # more that is outside of what an argument allows
    "reg_lambda": [-1, -1e-9, [], (), [1.0, -2.0], [1.0, math.nan], [True], [None], torch.tensor([1.0, 2.0])],
    "draws": [0, -1, 2**16 + 1],
    "n_samples": [0, -3, 2.5],
    "batch_size": [0, -1],
    "max_bytes": [0, -1],
    "max_width": [0, 0.5],
    "seed": [-1],
    "num_workers": [-1, 1025, 2**62],
    "class_dim": [0, 65, -65],
    "gamma": [-0.1, 1.5, 2],
    "keep": [-0.1, 1.5],
    "weight": [-0.1],
    "strength": [-0.1],
    "xi": [0, -1.0, 1e-50],
    "a": OF_TENSORS,
    "b": OF_TENSORS,
    "anchor": OF_TENSORS,
    "importance": OF_TENSORS,
    "parameters": [3, "x", b"x", [1.0], torch.ones(2), {"weight": 1.0}],
    "points": [3, "x", b"x", [], [3], THETA, [{}], *([value] for value in OF_TENSORS)],
    "curvatures": [3, "x", [THETA], *({"mine": value} for value in OF_TENSORS), {"mine": {}}],
    "data": NO_DATA,
    "state": NO_STATE,
    "strategy": [3, "x", nn.Linear(3, 2), type("Without", (), {"model": None})()],
    "plugin": [3, "x", clreg_plugins.EWCPlugin, clreg_plugins.EWCPlugin(1.0)],
    "kind": [3, "x", int, nn.Linear(3, 2)],
    "rule": [3, ScaleRule, *(rule_of(parameters) for parameters in ("scale", (), (3,), None, {"scale"}))],
    "into": [3, "x", (1, 2, 3, 4), QuadraticPenalty().work_space()],
    "step": [3, "x", (1, 2, 3, 4)],
    "layers": [*NOT_A_MAPPING, {"0": None}, {"0": (None, "bias", torch.ones(1, 1, 1), torch.ones(1, 2, 2))}],
}
OF_CALL: dict[str, list[Any]] = {  # where one name means several things, in place of the above
    "KroneckerFactors.importance": [3, {}, {"weight": torch.ones(2, 3)}],
    "KroneckerPenalty.recenter.importance": [3, {}, {"weight": torch.ones(2, 3)}, KroneckerFactors],
    "QuadraticPenalty.grow.parameters": OF_TENSORS,
    "kronecker_factors.variant": [*OF_TYPE[str], "batched"],
    "KFACPlugin.fisher": [*OF_TYPE[str], "batched"],
}
ONE_STRENGTH = ("L2Plugin", "MASPlugin", "SIPlugin")


def bad_values(name: str, argument: str) -> list[Any]:
    """Values that an argument refuses."""
    annotation, default = arguments_of(name)[argument]
    kinds = [typing.get_origin(kind) or kind for kind in _members(annotation)]
    if f"{name}.{argument}" in OF_CALL:
        values = OF_CALL[f"{name}.{argument}"]
    else:
        values = [value for kind in kinds for value in OF_TYPE.get(kind, [])] + OF_NAME.get(argument, [])
        assert values, f"{name} has a new argument {argument!r} of type {annotation}: which values does it refuse?"
    if argument == "reg_lambda" and name in ONE_STRENGTH:
        values = [*values, [1.0, 2.0]]
    return values if type(None) in kinds or default is None else [None, *values]


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union; of a bare type itself."""
    is_union = typing.get_origin(annotation) in (typing.Union, type(int | str))
    return typing.get_args(annotation) if is_union else (annotation,)


def named(argument: str) -> str:
    """What a message calls an argument."""
    return {"parameters": "parameters?", "fisher": "(fisher|variant)", "rule": "(rule|ScaleRule)"}.get(
        argument, argument
    )


def is_mapping_of_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(t, Tensor | Factors) for t in value.values())
