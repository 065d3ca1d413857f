"""``clreg-study curvature``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from study.campaign.strength_search import choose, planned_run
from study.cli import options
from study.cli.folders import code_folder, command_line, records_folder, stem, tuning_records
from study.cli.terminal import print_table
from study.errors import ProtocolError
from study.protocol.load import load_protocol
from study.protocol.schema import Protocol
from study.protocol.settings import LAST_SEED, is_reference
from study.run.run_environment import RunEnvironment
from study.run.specification import Run


def curvature(
    name: options.Name,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods whose paths are measured, separated by commas; by default plain training, and the first with "
            "Kronecker factors and with the exact Fisher."
        ),
    ] = None,
    scenario: Annotated[str | None, typer.Option(help="The scenario; by default the protocol's first.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="The seed of the runs.")] = 0,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Measure on that many samples of the first experience; by default on all.")
    ] = None,
    device: options.OnDevice = options.Device.cpu,
    data_root: options.DataRoot = None,
    tuning: options.TuningFolder = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Write the page from the measurement in --out; train nothing.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; by default runs/<protocol>/curvature.")] = None,
    overrides: options.Overrides = None,
) -> None:
    """Draw how well a penalty approximates the first experience's loss while the second is trained.

    It is compared with what the Gauss-Newton matrix, the Hessian, Kronecker factors and diagonals predict.
    """
    folder = out or records_folder(name) / "curvature"
    if not rebuild:
        protocol = load_protocol(name, overrides or ())
        runs = _runs(name, protocol, _chosen(protocol, methods), scenario, seed, device, tuning)
        root = options.checked_data(protocol.benchmark.name, device, data_root)
    from study.report.curvature_page import DATA, curvature_table, read_curvature, write_curvature
    from study.report.markdown import check_page

    check_page("--out", folder, DATA)
    if rebuild:
        found = read_curvature(folder)
    else:
        from study.run.curvature import measure_curvature

        given = {"--methods": methods, "--scenario": scenario, "--seed": seed or None, "--samples": samples}
        command = command_line("curvature", name, tuning=tuning, overrides=overrides, device=device.value, more=given)
        environment = RunEnvironment(root, code_folder=code_folder(name))
        found = measure_curvature(protocol.title, command, runs, environment, samples)
    page = write_curvature(found, folder)
    print_table(curvature_table(found))
    typer.echo(f"written: {page}")


def _runs(
    name: str,
    protocol: Protocol,
    methods: Sequence[str],
    scenario: str | None,
    seed: int,
    device: options.Device,
    tuning: Path | None,
) -> list[Run]:
    """The run of each method."""
    kind = options.selected("--scenario", scenario, protocol.scenarios)
    if scenario is not None and len(kind) > 1:
        raise ProtocolError(f"--scenario {scenario}: allowed: one of {', '.join(protocol.scenarios)}")
    choices = choose(stem(name), protocol, tuning_records(name, tuning))
    runs = []
    for method in methods:
        if method in protocol.methods:
            runs.append(planned_run(stem(name), protocol, kind[0], method, seed, choices, device.value))
        else:
            naive = {"settings": {"kind": "naive"}, "strength": None, "device": device.value}
            runs.append(Run.of(stem(name), protocol, kind[0], method, seed, **naive))
    return runs


def _chosen(protocol: Protocol, methods: str | None) -> Sequence[str]:
    """The methods whose paths are measured."""
    if methods is not None:
        allowed = [name for name, settings in protocol.methods.items() if not is_reference(settings)]
        return options.selected("--methods", methods, allowed)
    kinds = {name: settings.kind for name, settings in protocol.methods.items()}
    exact = [name for name, settings in protocol.methods.items() if getattr(settings, "fisher", None) == "exact"]
    first = (
        next((name for name, kind in kinds.items() if kind == "naive"), "none"),
        next((name for name in exact if kinds[name] == "kfac"), None),
        next((name for wanted in ("online_ewc", "ewc") for name in exact if kinds[name] == wanted), None),
    )
    return [name for name in first if name is not None]
