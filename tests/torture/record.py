"""What was tried and what was lost, kept as one JSON file."""

from importlib.metadata import distributions
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field

from study.atomic import write_atomically
from study.bench.record import PACKAGES, Circumstances
from study.run.result import Natural
from study.run.specification import Frozen
from tests.study.processes import Command

PartName = Literal["kills", "faults", "fuzz", "soak", "scale"]

WHOLE = 100
"""Kills of the whole; the counts of all other parts are in proportion to it."""


class Tried(Frozen):
    """A kind of fault.

    Attributes:
        what: the fault.
        tries: how often.
        hit: how many of the tries came while a run was in progress; None where that is no question.
        wrong: what was lost or is wrong, a sentence each.
    """

    what: str
    tries: Natural
    hit: Natural | None = None
    wrong: tuple[str, ...] = ()


class Measured(Frozen):
    """A number, and what it may be at most."""

    what: str
    value: float
    unit: str
    at_most: float | None = None

    @property
    def too_much(self) -> bool:
        return self.at_most is not None and not self.value <= self.at_most


class PartRecord(Frozen):
    """What a part did, with ``cycles`` of :data:`WHOLE` and a seed."""

    circumstances: Circumstances
    cycles: int
    seed: int
    seconds: float
    tried: tuple[Tried, ...] = ()
    measured: tuple[Measured, ...] = ()

    @property
    def wrong(self) -> list[str]:
        """What was lost or is wrong, a sentence each; none if all is well."""
        exceeded = [
            f"{each.what}: {each.value:g} {each.unit}, at most {each.at_most:g}"
            for each in self.measured
            if each.too_much
        ]
        return [f"{each.what}: {sentence}" for each in self.tried for sentence in each.wrong] + exceeded


class Reliability(Frozen):
    """All parts; they may have been tried at different times."""

    parts: dict[PartName, PartRecord] = Field(default_factory=dict)

    def with_part(self, name: PartName, part: PartRecord) -> Self:
        return self.model_copy(update={"parts": {**self.parts, name: part}})

    @property
    def wrong(self) -> list[str]:
        return [f"{name}: {sentence}" for name, part in self.parts.items() for sentence in part.wrong]


def in_one_call(what: str, command: Command, out: Path, runs: int) -> Tried:
    """Wait until a call ends; all of its runs must have a record in ``out``."""
    code, finished = command.code(), len(list(out.glob("*.json")))
    return Tried(
        what=what,
        tries=runs,
        wrong=() if (code, finished) == (0, runs) else (f"{finished} finished: {command.said[-300:]}",),
    )


def now() -> Circumstances:
    """Of this process, with the versions of what else is put to the test."""
    tested = {*PACKAGES, "hypothesis", "pydantic", "ray", "typer", "wandb"}
    versions = {each.name: each.version for each in distributions() if each.name in tested}
    return Circumstances.now(torch.device("cpu")).model_copy(update={"versions": dict(sorted(versions.items()))})


def file_in(folder: Path) -> Path:
    return folder / "reliability.json"


def read(folder: Path) -> Reliability:
    """The record in a folder; no parts where there is none."""
    path = file_in(folder)
    return Reliability.model_validate_json(path.read_bytes()) if path.is_file() else Reliability()


def write(folder: Path, record: Reliability) -> None:
    write_atomically(file_in(folder), (record.model_dump_json(indent=1, exclude_defaults=True) + "\n").encode())
