"""What a protocol file may say: one experiment with its settings, its strengths λ, and the numbers published for it."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from study.errors import ProtocolError
from study.protocol.own_code import versions
from study.protocol.settings import (
    AnyBenchmark,
    AnyModel,
    Fraction,
    Method,
    Positive,
    Replay,
    Scenario,
    Seed,
    Strength,
    Training,
    is_reference,
    takes_strength,
)
from study.protocol.table import Own, Table, suggestion
from study.protocol.validation_messages import validation_messages


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "allowed: any text but an empty one")
    return text


def _in_percent(mean: float) -> float:
    if 0 < mean <= 1:  # no table has so low an accuracy, but many give it as a share
        raise PydanticCustomError("share", "allowed: percent, as in 97.5 for a share of 0.975")
    return mean


Text = Annotated[str, AfterValidator(_not_blank)]
MOST_SEEDS = 10**6
MethodName = Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=50)]  # part of file names
NonNegative = Annotated[float, Field(ge=0)]
_STRENGTH = TypeAdapter(Strength, config=Table.model_config)


class PublishedNumber(Table):
    """One published average accuracy, in percent.

    Attributes:
        spread: in percentage points, of the kind that its table names; None if none was published.
    """

    mean: Annotated[float, Field(ge=0, le=100), AfterValidator(_in_percent)]
    spread: NonNegative | None = None


class Published(Table):
    """A table of published numbers: the average accuracy over all experiences at the end, in percent.

    Attributes:
        source: paper, table, and where to find it.
        spread: what the spreads are: "sd" over runs, "sem" (standard error of the mean), or "none".
        n: how many runs the means are over; None if the source does not say.
        context: methods whose rows are shown and not counted: another method's is the comparison with that number.
        results: by method and scenario.
    """

    source: Text
    spread: Literal["sd", "sem", "none"]
    n: Positive | None = None
    context: list[str] = Field(default_factory=list)
    results: dict[str, dict[Scenario, PublishedNumber]]

    @model_validator(mode="after")
    def _spreads_are_as_the_table_says(self) -> "Published":
        for name, by_scenario in self.results.items():
            for scenario, number in by_scenario.items():
                if (number.spread is None) != (self.spread == "none"):
                    raise ValueError(f"results.{name}.{scenario}: a spread is given where spread is not 'none', only")
        _known("context", self.context, self.results, "method with a result in this table")
        if self.spread != "none" and (self.n is None or self.n < 2):
            raise ValueError(f"n = {self.n}: spreads come from at least 2 runs")
        return self


class Tuning(Table):
    """The search for hyperparameters, on a validation part of the training data; test data takes no part in it.

    Attributes:
        seeds: any that the runs do not use.
        validation_fraction: share of each class's training data that is taken for validation.
        grid: by method, the values of ``strength`` (λ) and of further options; every combination is tried.
    """

    seeds: Annotated[list[Seed], Field(min_length=1)]
    validation_fraction: Fraction
    grid: dict[str, dict[str, Annotated[list[Any], Field(min_length=1)]]]

    def combinations(self, method: str) -> list[dict[str, Any]]:
        """Every combination of a method's grid, as ``{"strength": λ, option: value, …}``."""
        options = self.grid[method]
        return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


class Comparisons(Table):
    """A family of comparisons that Holm's correction is over, in each scenario.

    Attributes:
        baselines: methods that every other one, and each other baseline, is compared with, except joint and cumulative
            training.
        methods: those to compare with the baselines; None for all. The others are shown without a test.
        margin: of equivalence, in percentage points: a smaller difference counts as none. None for no such test.
    """

    baselines: Annotated[list[str], Field(min_length=1)]
    methods: Annotated[list[str], Field(min_length=1)] | None = None
    margin: Annotated[float, Field(gt=0, le=100)] | None = None


AnyComparisons = Annotated[
    Annotated[Comparisons, Tag("(one)")] | Annotated[list[Comparisons], Field(min_length=1), Tag("(several)")],
    Discriminator(lambda value: "(several)" if isinstance(value, list) else "(one)"),
]


class Protocol(Table):
    """One experiment: every method in every scenario over the seeds 0 … ``seeds`` − 1.

    Attributes:
        title: one line.
        description: what it is and where its settings come from.
        seeds: how many, by default.
        benchmark, model, training: the settings that all runs share.
        methods: by the name that reports use.
        strength: for each method that has a λ, its λ in each scenario, or "tuned": the choice of ``clreg-study tune``.
        strength_source: how the λs were chosen, for the report.
        published, tuning: the numbers published for it, and the search for λ.
        comparisons: between methods, one family or several; None for all pairs.
    """

    title: Text
    description: str = ""
    scenarios: Annotated[list[Scenario], Field(min_length=1)]
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)]
    benchmark: AnyBenchmark
    model: AnyModel
    training: Training
    methods: Annotated[dict[MethodName, Method], Field(min_length=1)]
    strength: dict[str, dict[Scenario, Strength | Literal["tuned"]]] = Field(default_factory=dict)
    strength_source: Text = "the protocol file; where it says 'tuned', the search by clreg-study tune"
    published: list[Published] = Field(default_factory=list)
    tuning: Tuning | None = None
    comparisons: AnyComparisons | None = None

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Protocol":
        self._check_model()
        self._check_memories()
        self._check_strengths()
        self._check_grid()
        self.run_seeds()
        self._check_repetitions()
        for index, table in enumerate(self.published):
            key = f"published.{index}.results"
            _known(key, table.results, self.methods, "method")
            for name, by_scenario in table.results.items():
                _known(f"{key}.{name}", by_scenario, self.scenarios, "scenario in this protocol")
        self._check_families()
        return self

    @property
    def families(self) -> list[Comparisons]:
        """The families of comparisons; empty for all pairs."""
        return list(self._families_by_key.values())

    @property
    def _families_by_key(self) -> dict[str, Comparisons]:
        if isinstance(self.comparisons, list):
            return {f"comparisons.{index}": family for index, family in enumerate(self.comparisons)}
        return {} if self.comparisons is None else {"comparisons": self.comparisons}

    def _check_families(self) -> None:
        compared = [name for name, method in self.methods.items() if not is_reference(method)]
        for key, family in self._families_by_key.items():
            if len(family.baselines) == 1 and family.methods == family.baselines:
                raise ValueError(f"{key}.methods holds the one baseline alone; allowed: methods to compare with it")
            for role in ("baselines", "methods"):
                for name in getattr(family, role) or ():
                    if name not in compared:
                        raise ValueError(
                            f"{key}.{role} holds {name!r}: no such method to compare{suggestion(name, compared)}"
                        )

    def _check_model(self) -> None:
        if isinstance(self.benchmark, Own) or isinstance(self.model, Own) or self.model.name in ("mlp", "cnn"):
            return
        if "cifar" not in self.benchmark.name or self.benchmark.padding:
            raise ValueError(
                f"model.name = {self.model.name!r} takes CIFAR's images of 3 x 32 x 32 pixels, without padding; "
                "'mlp' and 'cnn' take any"
            )

    def _check_memories(self) -> None:
        own = isinstance(self.benchmark, Own)
        n = 0 if own else self.benchmark.experiences
        for name, method in self.methods.items():
            key = f"methods.{name}"
            if isinstance(method, Replay) and own and method.storage != "float32":
                raise ValueError(f"{key}.storage = {method.storage!r}: allowed with a benchmark of your own: 'float32'")
            if isinstance(method, Replay) and method.examples is not None and method.examples < n:
                raise ValueError(f"{key}.examples = {method.examples}: allowed: at least {n}, one of each experience")

    def _check_strengths(self) -> None:
        _known("strength", self.strength, self._penalised, "method with a λ")
        for name in self._penalised:
            if name not in self.strength:
                raise ValueError(f"strength.{name} is missing: every method with a λ needs it")
            for scenario in self.scenarios:
                if scenario not in self.strength[name]:
                    raise ValueError(f"strength.{name}.{scenario} is missing: the protocol runs {scenario!r}")

    def _check_grid(self) -> None:
        grid = self.tuning.grid if self.tuning else {}
        for name in grid:
            if isinstance(self.methods.get(name), Own) and name not in self._penalised:
                raise ValueError(
                    f"strength.{name} is missing: a method with a grid needs it, as in "
                    f"strength.{name}.{self.scenarios[0]} = 'tuned'"
                )
        _known("tuning.grid", grid, self._penalised, "method with a λ")
        for name in grid:
            for values in self.tuning.combinations(name):
                self.variant(name, values)
        for name, by_scenario in self.strength.items():
            if "tuned" in by_scenario.values() and name not in grid:
                raise ValueError(f"strength.{name} = 'tuned' needs a grid to search: tuning.grid.{name} is missing")

    def _check_repetitions(self) -> None:
        lists = {"scenarios": self.scenarios}
        for key, family in self._families_by_key.items():
            lists |= {f"{key}.baselines": family.baselines, f"{key}.methods": family.methods or []}
        if self.tuning:
            lists["tuning.seeds"] = self.tuning.seeds
            lists |= {f"tuning.grid.{m}.{o}": each for m, of in self.tuning.grid.items() for o, each in of.items()}
        for key, values in lists.items():
            for index, value in enumerate(values):
                if value in values[:index]:
                    raise ValueError(f"{key} holds {value!r} twice; allowed: each value once")

    @property
    def _penalised(self) -> list[str]:
        return [name for name, method in self.methods.items() if takes_strength(method)]

    def run_seeds(self, number: int | None = None) -> range:
        """The seeds of the runs, 0 … ``number`` − 1; by default as many as the protocol says.

        Raises:
            ProtocolError: the search uses one of them.
        """
        seeds = range(number or self.seeds)
        common = [str(seed) for seed in self.tuning.seeds if seed in seeds] if self.tuning else []
        if common:
            raise ProtocolError(
                f"tuning.seeds: {', '.join(common)} would be of the runs too, which use 0 to {len(seeds) - 1}; "
                "allowed: seeds that no run uses"
            )
        return seeds

    @property
    def own_code(self) -> dict[str, str | None]:
        """The hash of each file or module that it names as the user's own code; None if there is no such file."""
        return versions((self.benchmark, self.model, *self.methods.values()))

    def strength_of(self, method: str, scenario: Scenario) -> float | Literal["tuned"] | None:
        """λ of a method in a scenario, or "tuned"; None for a method that has none."""
        return self.strength[method][scenario] if takes_strength(self.methods[method]) else None

    def variant(self, method: str, values: Mapping[str, Any]) -> tuple[Method, float | None]:
        """A method with values of the grid in place of its own options, and its λ.

        Raises:
            ValueError: a value or option that the method does not have.
        """
        settings, key = self.methods[method], f"tuning.grid.{method}"
        options = {name: value for name, value in values.items() if name != "strength"}
        if not isinstance(settings, Own):
            _known(key, options, ["strength", *(k for k in type(settings).model_fields if k != "kind")], "option")
        try:
            strength = _STRENGTH.validate_python(values.get("strength"), strict=True)
        except ValidationError as error:
            allowed = error.errors()[0]["msg"].removeprefix("Input should be").removeprefix("allowed:")
            raise ValueError(f"{key}.strength holds {values.get('strength')!r}; allowed:{allowed}") from None
        try:
            return type(settings).model_validate(settings.model_dump() | options), strength
        except ValidationError as error:
            raise ValueError("; ".join(f"{key}.{line}" for line in validation_messages(error))) from None


def _known(key: str, names: Mapping[str, Any], allowed: Sequence[str] | Mapping[str, Any], what: str) -> None:
    for name in names:
        if name not in allowed:
            raise ValueError(f"{key}.{name}: no such {what}{suggestion(name, allowed)}")
