"""Measurements and their circumstances, kept as one JSON file per device."""

import platform
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, ValidationError

from study.atomic import write_atomically
from study.errors import StudyError
from study.run.specification import Frozen
from study.run.system import git_commit, processor

Part = Literal["step", "pass", "memory"]
DeviceName = Literal["cpu", "cuda"]

CLREG = "clreg"
"""Name of this project among the libraries that are compared."""

PACKAGES = {"clreg", "torch", "torchvision", "avalanche-lib", "backpack-for-pytorch", "curvlinops-for-pytorch"}
"""Whose versions are recorded."""


class BenchError(StudyError):
    """The measurements cannot be made, read or written."""


class Measurement(Frozen):
    """One quantity, measured in several rounds.

    Attributes:
        model: name of the workload.
        method: "EWC", "exact Fisher".
        by: the library whose code was measured.
        setting: a further condition: "experience 10", "100 classes".
        quantity: what the values are.
        values: one per round; none where it was not measured.
        seconds: median absolute time, where the quantity is a ratio of times.
        note: shown below the table; the reason, where it was not measured.
    """

    model: str
    method: str
    by: str
    setting: str
    quantity: str
    values: tuple[float, ...] = ()
    seconds: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile."""
        low, high = np.quantile(self.values, (0.25, 0.75))
        return float(low), float(high)

    @property
    def what(self) -> str:
        """What was measured, in words."""
        return ", ".join(filter(None, (self.method, self.by, self.model, self.setting)))

    @property
    def line(self) -> str:
        """For a terminal."""
        return f"{self.what}: {f'{self.median:.3g} {self.quantity}' if self.values else f'not measured: {self.note}'}"


class Circumstances(Frozen):
    """When, where and with what a part was measured; ``threads`` are PyTorch's on the CPU."""

    started: str
    threads: int
    machine: str
    versions: dict[str, str]
    commit: str | None

    @classmethod
    def now(cls, device: torch.device) -> Self:
        gpu = [torch.cuda.get_device_name(device)] if device.type == "cuda" else []
        return cls(
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            threads=torch.get_num_threads(),
            machine=", ".join([*gpu, processor(), f"{platform.system()} {platform.machine()}"]),
            versions={each.name: each.version for each in distributions() if each.name in PACKAGES},
            commit=git_commit(),
        )


class PartRecord(Frozen):
    circumstances: Circumstances
    measurements: tuple[Measurement, ...]


class Performance(Frozen):
    """All parts on one device; they may have been measured at different times."""

    device: DeviceName
    parts: dict[Part, PartRecord] = Field(default_factory=dict)

    def of(self, part: Part) -> list[Measurement]:
        return [each for each in self.parts[part].measurements if each.values] if part in self.parts else []

    def with_part(self, part: Part, record: PartRecord) -> Self:
        return self.model_copy(update={"parts": {**self.parts, part: record}})


def reason_of(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def file_of(folder: Path, device: DeviceName) -> Path:
    return folder / f"{device}.json"


def read(folder: Path, device: DeviceName) -> Performance:
    """The measurements on a device; no parts where there is no file, BenchError if it holds something else."""
    path = file_of(folder, device)
    if not path.is_file():
        return Performance(device=device)
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
    text = performance.model_dump_json(indent=1, exclude_defaults=True) + "\n"
    write_atomically(file_of(folder, performance.device), text.encode())
