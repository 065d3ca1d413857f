"""What a protocol file may say. Every error names the file, the key, the value and what is allowed.

A protocol is data: benchmark, model, training, methods and their strengths λ. It knows no torch; the names in
it are given their meaning by ``benchmarks``, ``models`` and ``methods``.
"""

import difflib
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

Scenario = Literal["task", "domain", "class"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)

FIRST_TUNING_SEED = 1000  # a report's seeds are 0, 1, 2, ... below it: no report uses a seed that λ was chosen on

Fraction = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=FIRST_TUNING_SEED)]
Strength = Annotated[float, Field(ge=0)]
MethodName = Annotated[str, Field(pattern=r"^[\w-]+$")]  # part of file names


class ProtocolError(ValueError):
    """A protocol that cannot be used, and why."""


class Table(BaseModel):
    """A table of a protocol file: immutable, nothing converted silently, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _name_the_allowed_keys(cls, data: Any, info: ValidationInfo) -> Any:
        for key in data if isinstance(data, Mapping) else ():
            if key not in cls.model_fields:
                raise ValueError(f"unknown key {key!r}{suggestion(key, cls.model_fields)}")
        return data


class Benchmark(Table):
    """Which data, and how it is split.

    Attributes:
        name: "split_digits", scikit-learn's own 1,797 images of 8 x 8 pixels in ten classes.
        experiences: how many the ten classes are split into, in the order of the digits.
        test_fraction: share of each class that is kept for testing.
        split_seed: of the stratified split, the same for every run.
    """

    name: Literal["split_digits"]
    experiences: Literal[2, 5]
    test_fraction: Fraction
    split_seed: Annotated[int, Field(ge=0)]


class Model(Table):
    """A multi-layer perceptron with ReLU; ``hidden`` lists the widths of its hidden layers."""

    name: Literal["mlp"]
    hidden: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]


class Training(Table):
    """How each experience is trained on, always with a fresh optimizer state.

    Joint training sees all experiences at once, for as many epochs.
    """

    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    optimizer: Literal["adam", "sgd"]
    learning_rate: Annotated[float, Field(gt=0)]


class Naive(Table):
    """Plain fine-tuning, no defence against forgetting."""

    kind: Literal["naive"]


class Joint(Table):
    """Training on all experiences at once: what there is to reach."""

    kind: Literal["joint"]


class L2(Table):
    """``L2Plugin``."""

    kind: Literal["l2"]


class EWC(Table):
    """``EWCPlugin`` and its options."""

    kind: Literal["ewc"]
    fisher: Literal["exact", "sample", "predicted", "empirical", "batched"] = "exact"
    n_samples: Annotated[int, Field(ge=1)] | None = None


class OnlineEWC(Table):
    """``OnlineEWCPlugin`` and its options."""

    kind: Literal["online_ewc"]
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    fisher: Literal["exact", "sample", "predicted", "empirical", "batched"] = "exact"
    n_samples: Annotated[int, Field(ge=1)] | None = None


class MAS(Table):
    """``MASPlugin`` and its options."""

    kind: Literal["mas"]
    output: Literal["squared_norm", "mean_square", "vector"] = "squared_norm"
    accumulate: Literal["average", "sum"] = "average"
    per_sample: bool = True


class SI(Table):
    """``SIPlugin`` and its options."""

    kind: Literal["si"]
    xi: Annotated[float, Field(gt=0)] = 0.1
    gradient: Literal["task", "total"] = "task"
    clip: bool = True


Method = Annotated[Naive | Joint | L2 | EWC | OnlineEWC | MAS | SI, Field(discriminator="kind")]


def takes_strength(method: Method) -> bool:
    """Whether a method has a λ."""
    return not isinstance(method, Naive | Joint)


class Tuning(Table):
    """The search for λ: on seeds of its own and on a validation part of the training data, never on test
    data.

    Attributes:
        seeds: from 1000 on, so that no report uses them.
        validation_fraction: share of each class's training data that is taken for validation.
        grid: for each method that has a λ, the values to try.
    """

    seeds: Annotated[list[Seed], Field(min_length=1)]
    validation_fraction: Fraction
    grid: dict[str, Annotated[list[Strength], Field(min_length=1)]]


class Protocol(Table):
    """One experiment: every method in every scenario over the seeds 0 … ``seeds`` − 1.

    Attributes:
        title: one line.
        description: what it is and where its settings come from.
        scenarios: of "task", "domain" and "class".
        seeds: how many, by default.
        methods: by the name that reports use.
        strength: for each method that has a λ, its λ in each scenario.
    """

    title: str
    description: str
    scenarios: Annotated[list[Scenario], Field(min_length=1)]
    seeds: Annotated[int, Field(ge=1, le=FIRST_TUNING_SEED)]
    benchmark: Benchmark
    model: Model
    training: Training
    methods: Annotated[dict[MethodName, Method], Field(min_length=1)]
    strength: dict[str, dict[Scenario, Strength]]
    tuning: Tuning

    @model_validator(mode="after")
    def _every_strength_is_given(self) -> "Protocol":
        penalised = [name for name, method in self.methods.items() if takes_strength(method)]
        for key, table in (("strength", self.strength), ("tuning.grid", self.tuning.grid)):
            for name in table:
                if name not in penalised:
                    raise ValueError(f"{key}.{name}: no such method with a λ; allowed: {', '.join(penalised)}")
            for name in penalised:
                if name not in table:
                    raise ValueError(f"{key}.{name} is missing: every method with a λ needs it")
        for name, by_scenario in self.strength.items():
            for scenario in self.scenarios:
                if scenario not in by_scenario:
                    raise ValueError(f"strength.{name}.{scenario} is missing: the protocol runs {scenario!r}")
        return self

    def strength_of(self, method: str, scenario: Scenario) -> float | None:
        """λ of a method in a scenario; None for a method that has none."""
        return self.strength[method][scenario] if takes_strength(self.methods[method]) else None


# ------------------------------------------------------------------------------- files


def protocol_names() -> list[str]:
    """The protocols that come with the package, sorted."""
    return sorted(path.name.removesuffix(".toml") for path in _folder().iterdir() if path.name.endswith(".toml"))


def load_protocol(name: str) -> Protocol:
    """The protocol of that name, or that in the file of that path if ``name`` ends in ``.toml``.

    Raises:
        ProtocolError: there is none, or the file does not say what it must.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise ProtocolError(f"there is no protocol file {name}")
        return parse_protocol(path.read_text(encoding="utf-8"), name)
    if name not in protocol_names():
        raise ProtocolError(f"unknown protocol {name!r}{suggestion(name, protocol_names())}, or a path to a .toml file")
    return parse_protocol((_folder() / f"{name}.toml").read_text(encoding="utf-8"), f"{name}.toml")


def parse_protocol(text: str, file: str) -> Protocol:
    """The protocol that a file's text says.

    Raises:
        ProtocolError: with one line an error, each naming ``file``, key, value and what is allowed.
    """
    try:
        return Protocol.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ProtocolError(f"{file} is not TOML: {error}") from error
    except ValidationError as error:
        lines = [f"{file}: {_in_words(item)}" for item in error.errors(include_url=False)]
        raise ProtocolError("\n".join(lines)) from error


def suggestion(name: str, allowed: Mapping[str, Any] | list[str]) -> str:
    """``; did you mean …? allowed: …`` for a name that is not among those allowed."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    meant = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{meant} allowed: {', '.join(allowed)}"


def _in_words(error: Any) -> str:
    """One error of pydantic's as ``key = value: what is wrong and what is allowed``."""
    location = list(error["loc"])
    if location[:1] == ["methods"] and len(location) > 2:
        del location[2]  # pydantic inserts the kind of the method there
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        location.append("kind")
    key = ".".join(map(str, location))
    if error["type"] in ("missing", "union_tag_not_found"):
        return f"{key} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"[{key}]: {message}" if key else message
    if error["type"] == "union_tag_invalid":
        return f"{key} = {error['ctx']['tag']!r}: allowed: {error['ctx']['expected_tags']}"
    return f"{key} = {error['input']!r}: {message[0].lower()}{message[1:]}"


def _folder() -> Any:
    return resources.files("study") / "protocols"
