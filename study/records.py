"""What determines a run, what came of it, and where that is kept: one JSON file a run, written atomically."""

import hashlib
import json
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from study.protocol import Benchmark, Method, Model, Protocol, Scenario, Training

PACKAGES_THAT_DECIDE = ("clreg", "torch", "avalanche-lib", "numpy", "scikit-learn")


class RecordError(ValueError):
    """A record that cannot be read, and why."""


class Frozen(BaseModel):
    """A value: immutable, nothing unknown in it, NaN and infinity kept as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Run(Frozen):
    """One training run, with all that determines its result.

    Attributes:
        protocol, label: names for people; they determine nothing.
        scenario: "task", "domain" or "class".
        method: its kind and options.
        strength: λ; None for a method that has none.
        seed: of initialisation and data order.
        evaluated_on: "test", or "validation": a part of the training data that is then not trained on.
        validation_fraction: the share that is taken; None when evaluated on "test".
    """

    protocol: str
    label: str
    benchmark: Benchmark
    model: Model
    training: Training
    scenario: Scenario
    method: Method
    strength: float | None
    seed: int
    evaluated_on: Literal["test", "validation"] = "test"
    validation_fraction: float | None = None

    @classmethod
    def of(cls, name: str, protocol: Protocol, scenario: Scenario, method: str, seed: int) -> Self:
        """The run that a protocol means by a scenario, a method and a seed."""
        return cls(
            protocol=name,
            label=method,
            benchmark=protocol.benchmark,
            model=protocol.model,
            training=protocol.training,
            scenario=scenario,
            method=protocol.methods[method],
            strength=protocol.strength_of(method, scenario),
            seed=seed,
        )

    @property
    def id(self) -> str:
        """Hash of what determines the result, the packages' versions included: 16 hexadecimal digits."""
        determining = self.model_dump(mode="json", exclude={"protocol", "label"}) | {"versions": versions()}
        return hashlib.sha256(json.dumps(determining, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def file_name(self) -> str:
        """Scenario, method, seed and id: a folder's listing says what is in it."""
        return f"{self.scenario}-{self.label}-seed{self.seed}-{self.id}.json"

    def __str__(self) -> str:
        return f"{self.scenario}-incremental {self.label}, seed {self.seed}"


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that decide a run's numbers."""
    return {name: version(name) for name in PACKAGES_THAT_DECIDE}


class RunRecord(Frozen):
    """What came of a run.

    Attributes:
        accuracy: shape (K, T), in [0, 1]: row k holds the accuracy on each of T experiences after the k-th
            training call. K = T, or 1 for joint training. None if the run failed.
        error: the traceback of a run that failed.
        seconds: wall-clock time.
        ended: when, UTC, ISO 8601.
        versions: see :func:`versions`.
        machine: operating system and processor architecture.
    """

    id: str
    run: Run
    accuracy: list[list[float]] | None
    error: str | None = None
    seconds: float
    ended: str
    versions: dict[str, str]
    machine: str

    @classmethod
    def of(
        cls,
        run: Run,
        *,
        accuracy: list[list[float]] | None = None,
        error: str | None = None,
        seconds: float = 0.0,
    ) -> Self:
        """The record of a run that has just ended on this machine, with these versions."""
        return cls(
            id=run.id,
            run=run,
            accuracy=accuracy,
            error=error,
            seconds=round(seconds, 3),
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=versions(),
            machine=f"{platform.system()} {platform.machine()}",
        )

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.accuracy is not None


@dataclass(frozen=True)
class RunStore:
    """A folder of records. It is made when the first record is written."""

    folder: Path

    def path(self, run: Run) -> Path:
        """Where the record of a run is, or would be."""
        return self.folder / run.file_name

    def read(self, run: Run) -> RunRecord | None:
        """The record of a run; None if there is none.

        Raises:
            RecordError: the file is not a record.
        """
        path = self.path(run)
        try:
            return RunRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise RecordError(f"{path} is not a record of this version; delete it to run it again") from error

    def write(self, record: RunRecord) -> None:
        """Write a record so that a reader, or a crash, sees either the whole of it or nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(record.run)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(record.model_dump_json(indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
