"""``clreg-study bench``."""

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.options import Device, OnDevice, check_device

if TYPE_CHECKING:
    from study.bench.record import Part


class Only(StrEnum):
    """Parts that can be measured by themselves."""

    step = "step"
    passes = "pass"
    memory = "memory"


def bench(
    device: OnDevice = Device.cpu,
    only: Annotated[Only | None, typer.Option(help="Measure only this part; the others stay as recorded.")] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Write the page from the measurements in --out; measure nothing.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of the measurements and their page.")] = Path("reports/performance"),
) -> None:
    """Measure a training step, an importance pass and memory, compared with other libraries; write a page.

    On two CPU cores it takes about 40 minutes, on a GPU at most ten.
    """
    from study.bench.plan import PARTS  # torch is slow to import, and other commands do without
    from study.bench.record import BenchError, file_of
    from study.bench.report import write_page

    check_device(device)
    recorded = any(file_of(out, each.value).is_file() for each in Device)
    if not recorded and out.is_dir() and any(out.iterdir()):
        raise BenchError(f"--out: {out} is not empty and holds no measurements; allowed: a new or an empty folder")
    if not rebuild:
        _measure(device, [part for part in PARTS if only in (None, part)], out)
    typer.echo(f"written: {write_page(out)}")


def _measure(device: Device, parts: list["Part"], out: Path) -> None:
    """Measure the parts one after the other, and write each measurement at once."""
    import torch

    from study.bench.plan import PLANS, units
    from study.bench.record import Circumstances, Measurement, PartRecord, read, reason_of, write

    plan, where = PLANS[device.value], torch.device(device.value)
    recorded, started = read(out, device.value), time.monotonic()
    for part in parts:
        circumstances, found = Circumstances.now(where), []
        for name, measure in units(part, plan, where):
            try:
                if time.monotonic() - started > plan.seconds:
                    raise TimeoutError(f"{plan.seconds / 60:g} minutes were over before it began")
                for each in measure():
                    found.append(each)
                    typer.echo(f"{part}: {each.line}")
            except (TimeoutError, torch.OutOfMemoryError) as error:
                found.append(Measurement(model="", method=name, by="", setting="", quantity="", note=reason_of(error)))
                typer.echo(f"{part}: {found[-1].line}")
            recorded = recorded.with_part(part, PartRecord(circumstances=circumstances, measurements=tuple(found)))
            write(out, recorded)
