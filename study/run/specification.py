"""What determines a run."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from study.protocol.schema import Protocol
from study.protocol.settings import AnyBenchmark, AnyModel, Fraction, Method, Scenario, Seed, Strength, Training
from study.protocol.table import Own
from study.run.system import versions


class Frozen(BaseModel):
    """An immutable value without unknown fields; NaN and infinity survive JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


NAMES = frozenset({"protocol", "label"})
"""Fields of a run that determine nothing."""


def identity(run: Mapping[str, Any], packages: Mapping[str, str]) -> str:
    """Hash of a run and the packages' versions, 16 hexadecimal digits.

    Args:
        run: as in JSON; its names do not count.
        packages: see :func:`study.run.system.versions`.
    """
    text = _content(run) + json.dumps(packages, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _content(run: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in run.items() if name not in NAMES}, sort_keys=True)


class Run(Frozen):
    """One training run, with all that determines its result.

    Attributes:
        protocol, label: names, which determine nothing.
        benchmark, model, training, scenario, method: as in the protocol.
        strength: λ; None for a method without one.
        seed: of initialisation, data order and permutations, each with its own generator.
        device: results of the two differ in the last bits.
        evaluated_on: "validation" is a held-out part of the training data.
        validation_fraction: the share of that part; None for "test".
    """

    protocol: str
    label: str
    benchmark: AnyBenchmark
    model: AnyModel
    training: Training
    scenario: Scenario
    method: Method
    strength: Strength | None
    seed: Seed
    device: Literal["cpu", "cuda"] = "cpu"
    evaluated_on: Literal["test", "validation"] = "test"
    validation_fraction: Fraction | None = None

    @classmethod
    def of(
        cls,
        name: str,
        protocol: Protocol,
        scenario: Scenario,
        method: str,
        seed: int,
        *,
        settings: Method | None = None,
        strength: float | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
    ) -> Self:
        """The run of a protocol; ``settings`` and ``strength`` take the place of its own, if a search chose them."""
        return cls(
            protocol=name,
            label=method,
            benchmark=protocol.benchmark,
            model=protocol.model,
            training=protocol.training,
            scenario=scenario,
            method=protocol.methods[method] if settings is None else settings,
            strength=protocol.strength_of(method, scenario) if settings is None else strength,
            seed=seed,
            device=device,
        )

    @property
    def own_code(self) -> list[tuple[Own, str]]:
        """The tables of the protocol that name the user's own code, with their keys."""
        tables = ((self.benchmark, "benchmark"), (self.model, "model"), (self.method, f"methods.{self.label}"))
        return [(table, key) for table, key in tables if isinstance(table, Own)]

    @property
    def content(self) -> str:
        """JSON of all that determines the result, except the packages' versions."""
        return _content(self.model_dump(mode="json"))

    @property
    def id(self) -> str:
        """Hash of all that determines the result, with versions: 16 hexadecimal digits."""
        return identity(self.model_dump(mode="json"), versions())

    @property
    def file_name(self) -> str:
        return self.file_name_with(self.id)

    def file_name_with(self, identity: str) -> str:
        """The file name with another id, as of a run with other versions."""
        return f"{self.scenario}-{self.label}-seed{self.seed}-{identity}.json"

    def __str__(self) -> str:
        strength = "" if self.evaluated_on == "test" or self.strength is None else f", λ = {self.strength:g}"
        return f"{self.scenario}-incremental {self.label}{strength}, seed {self.seed}"
