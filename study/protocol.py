"""What a protocol file may say. Every error names the file, the key, the value and what is allowed.

A protocol is data: one experiment with its settings, its strengths λ, and the numbers published for it.
"""

import itertools
import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from study.errors import StudyError
from study.settings import (
    Benchmark,
    Fraction,
    Method,
    Model,
    Scenario,
    Table,
    Training,
    suggestion,
    takes_strength,
)

FIRST_TUNING_SEED = 1000  # a report's seeds are 0, 1, 2, ... below it: no report uses a seed that λ was chosen on

Strength = Annotated[float, Field(ge=0)]
EXPECTED = ": input should be "  # how pydantic's errors of a wrong type or value begin

MethodName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]  # part of file names
Percent = Annotated[float, Field(ge=0, le=100)]
Spread = Annotated[float, Field(ge=0)]
Margin = Annotated[float, Field(gt=0)]


class ProtocolError(StudyError):
    """A protocol that cannot be used, and why."""


class PublishedNumber(Table):
    """One published average accuracy, in percent.

    Attributes:
        mean: in percent.
        spread: in percentage points, of the kind that its table names; None if none was published.
        margin: within which ours is called equivalent, in percentage points; by default its table's.
    """

    mean: Percent
    spread: Spread | None = None
    margin: Margin | None = None


class Published(Table):
    """A table of published numbers: the average accuracy over all experiences at the end, in percent.

    Attributes:
        source: paper, table, and where to find it.
        spread: what the spreads are: "sd" over runs, "sem" (standard error of the mean), or "none".
        n: how many runs the means are over; None if the source does not say.
        margin: of equivalence, in percentage points.
        results: by method and scenario.
    """

    source: str
    spread: Literal["sd", "sem", "none"]
    n: Annotated[int, Field(ge=1)] | None = None
    margin: Margin
    results: dict[str, dict[Scenario, PublishedNumber]]

    @model_validator(mode="after")
    def _spreads_are_as_the_table_says(self) -> "Published":
        for name, by_scenario in self.results.items():
            for scenario, number in by_scenario.items():
                if (number.spread is None) != (self.spread == "none"):
                    raise ValueError(f"results.{name}.{scenario}: a spread is given where spread is not 'none', only")
        if self.spread != "none" and (self.n is None or self.n < 2):
            raise ValueError(f"n = {self.n}: spreads come from at least 2 runs")
        return self


class Tuning(Table):
    """The search for hyperparameters: on seeds of its own and on a validation part of the training data.

    Test data takes no part in it.

    Attributes:
        seeds: from 1000 on, so that no report uses them.
        validation_fraction: share of each class's training data that is taken for validation.
        grid: for each method that is searched for, the values of ``strength`` (λ) and, if wanted, of further options
            of the method; every combination is tried.
    """

    seeds: Annotated[list[Annotated[int, Field(ge=FIRST_TUNING_SEED)]], Field(min_length=1)]
    validation_fraction: Fraction
    grid: dict[str, dict[str, Annotated[list[Any], Field(min_length=1)]]]

    def combinations(self, method: str) -> list[dict[str, Any]]:
        """Every combination of a method's grid, as ``{"strength": λ, option: value, …}``."""
        options = self.grid[method]
        return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


class Protocol(Table):
    """One experiment: every method in every scenario over the seeds 0 … ``seeds`` − 1.

    Attributes:
        title: one line.
        description: what it is and where its settings come from.
        scenarios: of "task", "domain" and "class".
        seeds: how many, by default.
        benchmark, model, training: the settings that all runs share.
        methods: by the name that reports use.
        strength: for each method that has a λ, its λ in each scenario, or "tuned": that which ``clreg-study tune``
            chose.
        strength_source: how the λs were chosen; the report repeats it.
        published: the numbers published for it.
        tuning: the search for λ.
    """

    title: str
    description: str
    scenarios: Annotated[list[Scenario], Field(min_length=1)]
    seeds: Annotated[int, Field(ge=1, le=FIRST_TUNING_SEED)]
    benchmark: Benchmark
    model: Model
    training: Training
    methods: Annotated[dict[MethodName, Method], Field(min_length=1)]
    strength: dict[str, dict[Scenario, Strength | Literal["tuned"]]] = Field(default_factory=dict)
    strength_source: str
    published: list[Published] = Field(default_factory=list)
    tuning: Tuning | None = None

    @model_validator(mode="after")
    def _the_model_takes_the_images(self) -> "Protocol":
        if self.model.name != "mlp" and ("cifar" not in self.benchmark.name or self.benchmark.padding):
            raise ValueError(
                f"model.name = {self.model.name!r} takes CIFAR's images of 3 x 32 x 32 pixels, without padding; "
                "'mlp' takes any"
            )
        return self

    @model_validator(mode="after")
    def _every_strength_is_given(self) -> "Protocol":
        penalised = [name for name, method in self.methods.items() if takes_strength(method)]
        _known("strength", self.strength, penalised, "method with a λ")
        for name in penalised:
            if name not in self.strength:
                raise ValueError(f"strength.{name} is missing: every method with a λ needs it")
            for scenario in self.scenarios:
                if scenario not in self.strength[name]:
                    raise ValueError(f"strength.{name}.{scenario} is missing: the protocol runs {scenario!r}")
        return self

    @model_validator(mode="after")
    def _the_grid_fits_the_methods(self) -> "Protocol":
        grid = self.tuning.grid if self.tuning else {}
        _known("tuning.grid", grid, [n for n, method in self.methods.items() if takes_strength(method)], "method")
        for name in grid:
            for values in self.tuning.combinations(name):
                self.variant(name, values)
        for name, by_scenario in self.strength.items():
            if "tuned" in by_scenario.values() and name not in grid:
                raise ValueError(f"strength.{name} = 'tuned' needs a grid to search: tuning.grid.{name} is missing")
        return self

    @model_validator(mode="after")
    def _published_numbers_have_a_method(self) -> "Protocol":
        for index, table in enumerate(self.published):
            _known(f"published.{index}.results", table.results, self.methods, "method")
        return self

    def strength_of(self, method: str, scenario: Scenario) -> float | Literal["tuned"] | None:
        """λ of a method in a scenario, or "tuned"; None for a method that has none."""
        return self.strength[method][scenario] if takes_strength(self.methods[method]) else None

    def variant(self, method: str, values: Mapping[str, Any]) -> tuple[Method, float | None]:
        """A method with values of the grid in place of its own options, and its λ.

        Raises:
            ValueError: a value or option that the method does not have.
        """
        settings = self.methods[method]
        key = f"tuning.grid.{method}"
        options = {name: value for name, value in values.items() if name != "strength"}
        _known(key, options, ["strength", *(name for name in type(settings).model_fields if name != "kind")], "option")
        strength = values.get("strength")
        if type(strength) not in (int, float) or not 0 <= strength < math.inf:
            raise ValueError(f"{key}.strength holds {strength!r}; allowed: numbers of at least 0")
        try:
            return type(settings).model_validate(settings.model_dump() | options), float(strength)
        except ValidationError as error:
            problems = [f"{key}.{line}" for line in _lines(error)]
            raise ValueError("; ".join(problems)) from None


def _known(key: str, names: Mapping[str, Any], allowed: Sequence[str] | Mapping[str, Any], what: str) -> None:
    for name in names:
        if name not in allowed:
            raise ValueError(f"{key}.{name}: no such {what}{suggestion(name, allowed)}")


# ------------------------------------------------------------------------------- files


def protocol_names() -> list[str]:
    """The protocols that come with the package, sorted."""
    return sorted(path.name.removesuffix(".toml") for path in _folder().iterdir() if path.name.endswith(".toml"))


def load_protocol(name: str, overrides: Sequence[str] = ()) -> Protocol:
    """The protocol of that name, or that in the file of that path if ``name`` ends in ``.toml``.

    Args:
        name: as ``clreg-study list`` has it, or a path.
        overrides: ``key=value`` with a TOML key and a TOML value, as ``training.epochs=3``; they replace what the file
            says and are validated like it. A string may go without its quotes.

    Raises:
        ProtocolError: there is none, or the file or an override does not say what it must.
    """
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ProtocolError(f"there is no protocol file {name}") from None
        except UnicodeDecodeError as error:
            raise ProtocolError(f"{name} is not a text file in UTF-8: {error}") from error
        return parse_protocol(text, name, overrides)
    if name not in protocol_names():
        raise ProtocolError(f"unknown protocol {name!r}{suggestion(name, protocol_names())}, or a path to a .toml file")
    return parse_protocol((_folder() / f"{name}.toml").read_text(encoding="utf-8"), f"{name}.toml", overrides)


def parse_protocol(text: str, file: str, overrides: Sequence[str] = ()) -> Protocol:
    """The protocol that a file's text says, with overrides.

    Raises:
        ProtocolError: with one line an error, each naming ``file``, key, value and what is allowed.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProtocolError(f"{file} is not TOML: {error}") from error
    for override in overrides:
        _apply(override, data)
    source = file if not overrides else f"{file} with --set {' '.join(overrides)}"
    try:
        return Protocol.model_validate(data)
    except ValidationError as error:
        raise ProtocolError("\n".join(f"{source}: {line}" for line in _lines(error))) from error


def _apply(override: str, data: dict[str, Any]) -> None:
    key, _, value = override.partition("=")
    *tables, last = _path(key, override)
    for depth, part in enumerate(tables):
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ProtocolError(f"--set {override}: {'.'.join(tables[: depth + 1])} is not a table")
    try:
        data[last] = tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        data[last] = value.strip()  # a bare word, which a shell has left without its quotes


def _path(key: str, override: str) -> list[str]:
    """The parts of a TOML key: of ``strength."si-c0.1".domain`` three."""
    path: list[str] = []
    try:
        parts = tomllib.loads(f"{key} = 0") if "=" in override else {}
    except tomllib.TOMLDecodeError:
        parts = {}
    while isinstance(parts, dict) and len(parts) == 1:
        ((part, parts),) = parts.items()
        path.append(part)
    if not path:
        raise ProtocolError(f"--set {override}: allowed is KEY=VALUE, as in --set training.epochs=3")
    return path


def _lines(error: ValidationError) -> list[str]:
    """pydantic's errors, a line each: ``key = value: what is wrong and what is allowed``."""
    alternatives: dict[str, list[str]] = {}  # where a value may be of several types, pydantic names each by itself
    for item in error.errors(include_url=False):
        subject, problem = _in_words(item)
        known = alternatives.setdefault(subject, [])
        if problem not in known:
            known.append(problem)
    lines = []
    for subject, (first, *others) in alternatives.items():
        separated = [other for other in others if not other.startswith(EXPECTED)]
        merged = [first, *(other.removeprefix(EXPECTED) for other in others if other.startswith(EXPECTED))]
        lines += [f"{subject}{problem}" for problem in (", or ".join(merged), *separated)]
    return lines


def _in_words(error: Any) -> tuple[str, str]:
    """One error of pydantic's: what it is about, and what is wrong with that and what is allowed."""
    location = list(error["loc"])
    if location[:1] == ["methods"] and len(location) > 2:
        del location[2]  # pydantic inserts the kind of the method there
    # and the type or literal of a union that it tried
    location = [part for part in location if not any(mark in str(part) for mark in "[({")]
    if location[:1] in (["strength"], ["benchmark"]) and len(location) > 2:
        location = [part for part in location if part not in ("float", "constrained-float")]
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        location.append("kind")
    key = ".".join(map(str, location))
    if error["type"] in ("missing", "union_tag_not_found"):
        return key, " is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return (f"[{key}]: ", message) if key else ("", message)
    if error["type"] == "union_tag_invalid":
        return f"{key} = {error['ctx']['tag']!r}", f": allowed: {error['ctx']['expected_tags']}"
    return f"{key} = {error['input']!r}", f": {message[0].lower()}{message[1:]}"


def _folder() -> Any:
    return resources.files("study") / "protocols"
