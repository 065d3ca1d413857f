"""What was measured before an interrupt, so that the same command goes on."""

from collections.abc import Iterable
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from study.atomic import write_atomically
from study.bench.record import Agreement, BenchError, Circumstances, DeviceName, Measurement, Part, PartRecord, Skipped
from study.records.run_record import Hardware
from study.run.specification import Frozen


class Request(Frozen):
    """What was asked for, and of what: where any of it differs, measurements are no continuation."""

    device: DeviceName
    parts: tuple[Part, ...]
    quick: bool
    threads: int
    versions: dict[str, str]
    hardware: Hardware
    commit: str | None

    @classmethod
    def of(cls, parts: Iterable[Part], device: DeviceName, now: Circumstances) -> Self:
        """To measure these parts under these circumstances."""
        same = {name: getattr(now, name) for name in ("quick", "threads", "versions", "hardware", "commit")}
        return cls(device=device, parts=tuple(parts), **same)


class UnderWay(Frozen):
    """Parts that are finished, and what there is of the one after.

    Attributes:
        request: that is being fulfilled.
        done: the units that were measured, by part.
        parts: what came of them.
    """

    request: Request
    done: dict[Part, tuple[str, ...]] = Field(default_factory=dict)
    parts: dict[Part, PartRecord] = Field(default_factory=dict)

    def has(self, part: Part, unit: str) -> bool:
        """Whether a unit was measured."""
        return unit in self.done.get(part, ())

    def with_unit(
        self,
        part: Part,
        unit: str,
        found: Iterable[Measurement | Skipped | Agreement],
        circumstances: Circumstances,
    ) -> Self:
        """The same with one more unit, measured under these circumstances."""
        before = self.parts.get(part)
        kinds: dict[type, list] = {Measurement: [], Skipped: [], Agreement: []}
        if before is not None:
            since = {
                "started": before.circumstances.started,
                "load": (before.circumstances.load[0], circumstances.load[1]),
            }
            circumstances = circumstances.model_copy(update=since)
            found = [*before.measurements, *before.skipped, *before.agreements, *found]
        for each in found:
            kinds[type(each)].append(each)
        record = PartRecord(
            circumstances=circumstances,
            measurements=kinds[Measurement],
            skipped=kinds[Skipped],
            agreements=kinds[Agreement],
        )
        return self.model_copy(
            update={
                "done": {**self.done, part: (*self.done.get(part, ()), unit)},
                "parts": {**self.parts, part: record},
            }
        )


def under_way_file(folder: Path, device: DeviceName) -> Path:
    """Where it is kept, until all is measured."""
    return folder / f"{device}.under-way.json"


def go_on(folder: Path, request: Request) -> UnderWay:
    """What an interrupted command with the same request left, or a beginning.

    Raises:
        BenchError: the file is no such record.
        OSError: it cannot be read.
    """
    path = under_way_file(folder, request.device)
    if path.is_file():
        try:
            found = UnderWay.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise BenchError(
                f"{path} does not say what was measured before an interrupt: {error.errors()[0]['msg']}; remove it"
            ) from None
        if found.request == request:
            return found
    return UnderWay(request=request)


def keep(folder: Path, under_way: UnderWay) -> None:
    """In place of what was kept before.

    Raises:
        OSError: the folder cannot be written to.
    """
    path = under_way_file(folder, under_way.request.device)
    write_atomically(path, (under_way.model_dump_json(indent=1) + "\n").encode())
