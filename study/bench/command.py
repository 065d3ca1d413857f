"""``clreg-study bench``: measure, show, and compare with what was measured before."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from study.campaign.local_pool import usable_cpus
from study.cli.options import DataRoot, Device, OnDevice, check_device, selected
from study.cli.user_errors import INTERRUPTED, errors_without_traceback

if TYPE_CHECKING:
    from study.bench.measuring import Measuring
    from study.bench.record import Part, Performance

SLOWER = 1


def bench(
    device: OnDevice = Device.cpu,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of PyTorch; by default all CPUs.")] = None,
    only: Annotated[
        str | None,
        typer.Option(
            help="Only these parts, separated by commas: step, pass, memory, limit; on a CPU study, on a GPU waiting."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few models, samples and rounds: minutes.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Measure quickly and compare with what --out holds; exit 1 if slower.")
    ] = False,
    data_root: DataRoot = None,
    out: Annotated[Path, typer.Option(help="Folder of the measurements and the report.")] = Path("reports/performance"),
) -> None:
    """Measure what plugins, importance passes and the study cost, beside other libraries; write a report.

    Everything is measured as ratios within this process. Parts that are not measured now stay as they were recorded.
    After an interrupt the same command goes on.
    """
    # before torch is imported, which reads it once; else its profiler says on stderr that it starts and stops
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with errors_without_traceback():
        from study.bench.plan import PARTS  # here, since the other commands need not wait for torch to be imported
        from study.bench.record import read

        parts = selected("--only", only, list(PARTS[device.value]))
        measuring = _measuring(device, quick or check, threads, data_root)
        if check:
            _check(measuring, parts, read(out, device.value), out)
        else:
            _measure(measuring, parts, out)


def _check(measuring: "Measuring", parts: list["Part"], recorded: "Performance", out: Path) -> None:
    """Measure quickly, keep nothing, and end with 1 if something is worse than it was."""
    from study.bench.check import FACTOR, regressions
    from study.bench.record import BenchError, Performance, file_of
    from study.bench.under_way import UnderWay

    if not recorded.parts:
        raise BenchError(f"there is nothing to compare with: {file_of(out, measuring.device)} does not exist")
    found = UnderWay(request=measuring.request(parts))
    for part, unit in measuring.units(parts):
        found = measuring.with_unit(found, part, unit)
    slower = regressions(Performance(device=measuring.device, parts=found.parts), recorded)
    for line in slower:
        typer.echo(line)
    if slower:
        typer.echo(f"{len(slower)} are lost, or worse than recorded by more than a factor of {FACTOR}", err=True)
        raise typer.Exit(SLOWER)
    typer.echo(f"nothing is worse than recorded by more than a factor of {FACTOR}")


def _measure(measuring: "Measuring", parts: list["Part"], out: Path) -> None:
    """Measure what an interrupted command left, keep every unit at once, and every part in the report."""
    from study.bench.record import read, write
    from study.bench.report import targets_table, write_report
    from study.bench.under_way import go_on, keep, under_way_file

    recorded = read(out, measuring.device)
    _refuse_foreign_folder(out)
    _refuse_to_replace_more(recorded, parts, measuring.quick, out)
    found, units = go_on(out, measuring.request(parts)), measuring.units(parts)
    left = [(part, unit) for part, unit in units if not found.has(part, unit.name)]
    kept = under_way_file(out, measuring.device)
    if len(left) < len(units):
        done = f"{len(units) - len(left)} of {len(units)}"
        measuring.say(f"going on after an interrupt: {done} are measured; remove {kept} to begin anew")
    try:
        for part in parts:
            for _, unit in (each for each in left if each[0] == part):
                found = measuring.with_unit(found, part, unit)
                keep(out, found)
            recorded = recorded.with_part(part, found.parts[part])
            write(out, recorded)
            page = write_report(out)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on with what is not measured yet", err=True)
        raise typer.Exit(INTERRUPTED) from None
    kept.unlink(missing_ok=True)
    Console().print(targets_table(recorded))
    typer.echo(f"written: {page}")


def _refuse_to_replace_more(recorded: "Performance", parts: list["Part"], quick: bool, out: Path) -> None:
    from study.bench.record import BenchError, file_of

    full = [part for part in parts if part in recorded.parts and not recorded.parts[part].circumstances.quick]
    if quick and full:
        raise BenchError(
            f"--quick would replace full measurements of {', '.join(full)} in {file_of(out, recorded.device)}; "
            "allowed: another folder for --out, or to measure in full"
        )


def _refuse_foreign_folder(out: Path) -> None:
    from study.bench.plan import PARTS
    from study.bench.record import BenchError, file_of
    from study.bench.under_way import under_way_file

    ours = any(path(out, device).is_file() for device in PARTS for path in (file_of, under_way_file))
    if not ours and out.is_dir() and any(out.iterdir()):
        raise BenchError(
            f"{out} is not empty and holds no measurements; allowed for --out: a new or empty folder, or that of "
            "earlier measurements"
        )


def _measuring(device: Device, quick: bool, threads: int | None, named: Path | None) -> "Measuring":
    from study.bench.measuring import Measuring
    from study.run.data import data_root

    check_device(device)
    terminal = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(line: str) -> None:
        terminal.print(line, markup=False)

    cpus = usable_cpus()
    return Measuring(device.value, quick, threads or cpus, cpus, data_root(named), say)
