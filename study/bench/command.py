"""``clreg-study bench``: measure, show, and compare with what was measured before."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from study.execution import usable_cpus
from study.exits import errors_without_traceback
from study.options import DataRoot, Device, OnDevice, selected

if TYPE_CHECKING:
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
    """
    with errors_without_traceback():
        import torch  # here, since the other commands need not wait for it to be imported

        from study.bench.check import FACTOR, regressions
        from study.bench.plan import PARTS
        from study.bench.record import BenchError, Performance, file_of, read, write
        from study.bench.report import targets_table, write_report

        if device is Device.cuda and not torch.cuda.is_available():
            raise BenchError("--device cuda: this machine has no GPU that PyTorch can use; allowed: cpu")
        parts = selected("--only", only, list(PARTS[device.value]))
        recorded = read(out, device.value)
        terminal = Console(stderr=True, highlight=False, soft_wrap=True)
        if check:
            if not recorded.parts:
                raise BenchError(f"there is nothing to compare with: {file_of(out, device.value)} does not exist")
            found = Performance(device=device.value, parts={})
            for part in parts:
                found = _with_part(part, found, True, threads, data_root, terminal)
            slower = regressions(found, recorded)
            for line in slower:
                typer.echo(line)
            if slower:
                typer.echo(
                    f"{len(slower)} are lost, or worse than recorded by more than a factor of {FACTOR}", err=True
                )
                raise typer.Exit(SLOWER)
            typer.echo(f"nothing is worse than recorded by more than a factor of {FACTOR}")
            return
        ours = any(file_of(out, each).is_file() for each in PARTS)  # measurements on the other device count
        if not ours and out.is_dir() and any(out.iterdir()):
            raise BenchError(
                f"{out} is not empty and holds no measurements; allowed for --out: a new or empty folder, or that of "
                "earlier measurements"
            )
        for part in parts:
            recorded = _with_part(part, recorded, quick, threads, data_root, terminal)
            write(out, recorded)  # at once: an interrupt loses no more than the part under way
        page = write_report(out)
        Console().print(targets_table(recorded))
        typer.echo(f"written: {page}")


def _with_part(
    part: "Part",
    performance: "Performance",
    quick: bool,
    threads: int | None,
    data_root: Path | None,
    terminal: Console,
) -> "Performance":
    """Measure a part, saying so meanwhile."""
    import torch

    from study.bench.plan import measure, scale_for
    from study.bench.record import Agreement, Measurement, PartRecord, Skipped, Stopwatch
    from study.data import default_root
    from study.threads import torch_threads

    cpus = usable_cpus()
    threads = threads or cpus
    device = torch.device(performance.device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    stopwatch = Stopwatch(quick=quick, threads=threads, cpus=cpus, gpu=gpu)
    kinds: dict[type, list] = {Measurement: [], Skipped: [], Agreement: []}
    with torch_threads(threads):
        for found in measure(part, scale_for(performance.device, quick), device, data_root or default_root()):
            kinds[type(found)].append(found)
            terminal.print(f"{part}: {found.line}", markup=False)
    record = PartRecord(
        circumstances=stopwatch.circumstances(),
        measurements=kinds[Measurement],
        skipped=kinds[Skipped],
        agreements=kinds[Agreement],
    )
    return performance.with_part(part, record)
