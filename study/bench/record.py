"""What was measured, and under which circumstances: kept as one JSON file a device."""

import os
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import ValidationError

from study.atomic import write_atomically
from study.errors import StudyError
from study.records.run_record import Hardware
from study.run.specification import Frozen
from study.run.system import git_commit, processor, versions

Part = Literal["step", "pass", "memory", "limit", "study", "waiting"]
DeviceName = Literal["cpu", "cuda"]

PEERS = {"backpack": "backpack-for-pytorch", "curvlinops": "curvlinops-for-pytorch"}
"""What other libraries are imported and installed as."""


class BenchError(StudyError):
    """The measurements cannot be made or read."""


class Measurement(Frozen):
    """One number that was measured, with all its repetitions.

    Attributes:
        part: what it belongs to.
        model: what was measured on.
        mode: what was measured, by whom: "EWC, ours".
        setting: under which further condition, such as "experience 10" or "100 classes".
        quantity: what the values are.
        values: one a round.
        seconds: of the mode itself in each round, where it is a time.
        better: which values are better.
        ours: whether it is this project's, so that a change for the worse is a regression.
        relative: whether it is a ratio, which another machine should have, too.
        note: what to know about it.
    """

    part: Part
    model: str
    mode: str
    setting: str
    quantity: str
    values: tuple[float, ...]
    seconds: tuple[float, ...] = ()
    better: Literal["lower", "higher"] = "lower"
    ours: bool = True
    relative: bool = True
    note: str = ""

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What a later measurement of the same has in common with it."""
        return self.part, self.model, self.setting, self.mode, self.quantity

    @property
    def title(self) -> str:
        """The key in words."""
        return f"{self.quantity}: {self.mode}, {self.model}, {self.setting}".removesuffix(", ")

    @property
    def median(self) -> float:
        """Of the values."""
        return float(np.median(self.values))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third."""
        low, high = np.quantile(self.values, (0.25, 0.75))
        return float(low), float(high)

    @property
    def line(self) -> str:
        """For a terminal."""
        low, high = self.quartiles
        return f"{self.title}: {self.median:.3g} [{low:.3g}, {high:.3g}]"


class Skipped(Frozen):
    """A mode that was not measured, and why."""

    part: Part
    model: str
    mode: str
    setting: str
    reason: str

    @property
    def line(self) -> str:
        """For a terminal."""
        return f"not measured: {self.mode}, {self.model}, {self.setting}: {self.reason}"


class Agreement(Frozen):
    """How far a mode's numbers are from those that it should give.

    Attributes:
        compared: "entries", by the largest difference over the largest entry; or "sum" of all entries, for estimates
            that draw at random.
        difference: relative.
        allowed: the most that passes.
    """

    model: str
    setting: str
    mode: str
    reference: str
    compared: Literal["entries", "sum"]
    difference: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether the numbers agree; NaN does not."""
        return self.difference <= self.allowed

    @property
    def line(self) -> str:
        """For a terminal."""
        verdict = "agrees with" if self.holds else "DIFFERS from"
        return f"{self.mode} {verdict} {self.reference} ({self.compared} within {self.difference:.1e}), {self.model}"


class Circumstances(Frozen):
    """When, where and beside what a part was measured.

    Attributes:
        quick: whether it was measured with few rounds and samples.
        threads: of PyTorch on the CPU.
        load: average of the machine's load over a minute, at the start and at the end, this process included at the
            end; None where the system does not tell.
    """

    started: str
    ended: str
    quick: bool
    threads: int
    cpus: int
    load: tuple[float | None, float | None]
    versions: dict[str, str]
    hardware: Hardware
    commit: str | None


class PartRecord(Frozen):
    """All of one part."""

    circumstances: Circumstances
    measurements: tuple[Measurement, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    agreements: tuple[Agreement, ...] = ()


class Performance(Frozen):
    """All that was measured on one device, the parts perhaps at different times."""

    device: DeviceName
    parts: dict[Part, PartRecord]

    @property
    def measurements(self) -> list[Measurement]:
        """Of all parts."""
        return [measurement for part in self.parts.values() for measurement in part.measurements]

    def with_part(self, part: Part, record: PartRecord) -> Self:
        """The same with a part measured anew."""
        return self.model_copy(update={"parts": {**self.parts, part: record}})


class Stopwatch:
    """Notes the circumstances of a part, from its construction on."""

    def __init__(self, *, quick: bool, threads: int, cpus: int, gpu: str | None) -> None:
        self._quick, self._threads, self._cpus, self._gpu = quick, threads, cpus, gpu
        self._started, self._load = _now(), _load()

    def circumstances(self) -> Circumstances:
        """Until now."""
        return Circumstances(
            started=self._started,
            ended=_now(),
            quick=self._quick,
            threads=self._threads,
            cpus=self._cpus,
            load=(self._load, _load()),
            versions=versions() | _installed(PEERS.values()),
            hardware=Hardware(system=f"{platform.system()} {platform.machine()}", processor=processor(), gpu=self._gpu),
            commit=git_commit(),
        )


def file_of(folder: Path, device: DeviceName) -> Path:
    """Where the measurements on a device are kept."""
    return folder / f"{device}.json"


def read(folder: Path, device: DeviceName) -> Performance:
    """What was measured before; nothing where there is no file.

    Raises:
        BenchError: the file is no such record.
        OSError: it cannot be read.
    """
    path = file_of(folder, device)
    if not path.is_file():
        return Performance(device=device, parts={})
    try:
        found = Performance.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise BenchError(f"{path} holds no measurements: {place}: {first['msg']}") from None
    if found.device != device:
        raise BenchError(f"{path} holds measurements on {found.device!r}; expected {device!r}")
    return found


def write(folder: Path, performance: Performance) -> None:
    """Keep the measurements, in place of earlier ones.

    Raises:
        OSError: the folder cannot be written to.
    """
    text = performance.model_dump_json(indent=1) + "\n"
    write_atomically(file_of(folder, performance.device), text.encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _installed(names: Iterable[str]) -> Mapping[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
