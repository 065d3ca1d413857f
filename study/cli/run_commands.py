"""Commands that train: run and tune."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from study.campaign.carry_out import Interrupted, carry_out
from study.campaign.local_pool import usable_cpus
from study.campaign.one_run import is_lost
from study.campaign.ray_cluster import check_cluster
from study.campaign.strength_search import Choice, choose, planned_run, tuning_runs
from study.cli import options
from study.cli.folders import (
    code_folder,
    command_line,
    records_folder,
    reusable_records,
    stem,
    tuning_folder,
    tuning_records,
)
from study.cli.terminal import console, print_table
from study.errors import INTERRUPTED, SOME_RUNS_FAILED, ProtocolError
from study.protocol.load import load_protocol
from study.protocol.schema import MOST_SEEDS
from study.records.request import Request
from study.records.run_record import RunRecord
from study.records.store import RunStore
from study.run.run_environment import RunEnvironment
from study.run.specification import Run
from study.run.tracking import Tracking, check_tracking


def run(
    name: options.Name,
    seeds: Annotated[int | None, typer.Option(min=1, max=MOST_SEEDS, help="How many seeds.")] = None,
    methods: options.Methods = None,
    scenario: options.Scenarios = None,
    jobs: options.Jobs = None,
    device: options.OnDevice = options.Device.cpu,
    data_root: options.DataRoot = None,
    wandb: options.Wandb = options.Mode.offline,
    ray: options.Ray = None,
    gpus_per_run: options.GpusPerRun = None,
    max_silence: options.MaxSilence = None,
    out: options.Out = None,
    tuning: options.TuningFolder = None,
    reuse: options.Reuse = None,
    force: options.Force = False,
    overrides: options.Overrides = None,
) -> None:
    """Train every method in every scenario over the seeds, and print the results.

    Finished runs are kept: after an interrupt the same command resumes.
    """
    from study.report.terminal_tables import method_results, scenario_table

    protocol = load_protocol(name, overrides or ())
    scenarios = options.selected("--scenario", scenario, protocol.scenarios)
    chosen = options.selected("--methods", methods, protocol.methods)
    choices = choose(stem(name), protocol, tuning_records(name, tuning))
    runs = []
    for seed in protocol.run_seeds(seeds):
        for kind in scenarios:
            for method in chosen:
                runs.append(planned_run(stem(name), protocol, kind, method, seed, choices, device.value))
    folder = out or records_folder(name)
    workers = Workers(jobs, device, ray, gpus_per_run, max_silence)
    records = _perform(runs, name, overrides, folder, workers, data_root, wandb, force, reuse)
    ordered = sorted(records, key=lambda record: chosen.index(record.run.label))
    for kind in scenarios:
        print_table(scenario_table(protocol.title, kind, method_results(ordered, kind)))
    _say_what_is_where(folder, f"next: {command_line('report', name, records=out, tuning=tuning)}")
    _exit_if_any_failed(records)


def tune(
    name: options.Name,
    methods: options.Methods = None,
    scenario: options.Scenarios = None,
    jobs: options.Jobs = None,
    device: options.OnDevice = options.Device.cpu,
    data_root: options.DataRoot = None,
    wandb: options.Wandb = options.Mode.disabled,
    ray: options.Ray = None,
    gpus_per_run: options.GpusPerRun = None,
    max_silence: options.MaxSilence = None,
    out: options.SearchOut = None,
    reuse: options.Reuse = None,
    force: options.Force = False,
    overrides: options.Overrides = None,
) -> None:
    """Search for each method's λ, on seeds that no report uses, validated on a part of the training data."""
    from study.report.terminal_tables import choice_table, strength_toml

    protocol = load_protocol(name, overrides or ())
    scenarios = options.selected("--scenario", scenario, protocol.scenarios)
    chosen = options.selected("--methods", methods, protocol.methods)
    runs = tuning_runs(stem(name), protocol, scenarios, chosen, device.value)
    folder = out or tuning_folder(name)
    workers = Workers(jobs, device, ray, gpus_per_run, max_silence)
    records = _perform(runs, name, overrides, folder, workers, data_root, wandb, force, reuse)
    choices = choose(stem(name), protocol, records)
    print_table(choice_table(protocol.title, choices))
    if choices:
        typer.echo(
            'Nothing needs to be copied: `run` reads these λ from the search where the protocol says "tuned". To fix '
            f"them, put them into the protocol:\n\n[strength]\n{strength_toml(choices)}\n"
        )
    command = command_line("run", name, tuning=out, overrides=overrides, device=device.value)
    _say_what_is_where(folder, "\n".join([*filter(None, map(_widen, choices)), f"next: {command}"]))
    _exit_if_any_failed(records)


def _widen(choice: Choice) -> str:
    """What to do about a best λ at the edge of its grid; empty if it is not, or if there is no λ to try beyond it."""
    tried = [values[0] for values in choice.accuracy]
    if not choice.at_edge or min(tried) == max(tried) or choice.strength == 0:
        return ""
    more = "larger" if choice.strength == max(tried) else "smaller"
    return (
        f"λ = {choice.strength:g} of {choice.method} ({choice.scenario}) is at the edge of its grid; a {more} one "
        f"may be better: add some to tuning.grid.{choice.method}.strength and search again, which keeps finished runs"
    )


@dataclass(frozen=True)
class Workers:
    """What performs the runs.

    Raises:
        ProtocolError: options that do not go together.
    """

    jobs: int | None
    device: options.Device
    ray: str | None
    gpus_per_run: float | None
    max_silence: float | None

    def __post_init__(self) -> None:
        if self.gpus_per_run is not None and (self.ray is None or self.device is not options.Device.cuda):
            raise ProtocolError(f"--gpus-per-run {self.gpus_per_run:g}: allowed with --ray and --device cuda only")
        if self.max_silence is not None and self.ray is not None:
            raise ProtocolError(f"--max-silence {self.max_silence:g}: allowed without --ray only")

    def at_a_time(self, runs: int) -> int:
        """How many of so many runs."""
        if self.jobs is not None:
            return self.jobs
        if self.ray not in (None, "local"):
            return runs  # a cluster knows itself how many it can take at a time
        # one run does not share a GPU's memory with another
        return 1 if self.device is options.Device.cuda and self.gpus_per_run is None else usable_cpus()


def _perform(
    runs: Sequence[Run],
    name: str,
    overrides: Sequence[str] | None,
    folder: Path,
    workers: Workers,
    data_root: Path | None,
    wandb: options.Mode,
    force: bool,
    reuse: Sequence[Path] | None,
) -> list[RunRecord]:
    """Check everything that can be checked, then perform the runs."""
    if force and reuse:
        raise ProtocolError("--force repeats runs, and --reuse takes them from elsewhere; allowed: one of the two")
    known = reusable_records(reuse or ())
    terminal = console(stderr=True)
    root = options.checked_data(runs[0].benchmark.name, None if workers.ray else workers.device, data_root)
    if workers.ray is not None:
        check_cluster(workers.ray)
    folder.mkdir(parents=True, exist_ok=True)
    tracking = Tracking(wandb.value, folder.absolute())
    check_tracking(tracking)
    store = RunStore(folder)
    environment = RunEnvironment(root, store.under_way.absolute(), tracking, code_folder(name))
    check_own_code(name, runs, environment)
    try:
        return carry_out(
            runs,
            store,
            environment,
            jobs=workers.at_a_time(len(runs)),
            terminal=terminal,
            force=force,
            known=known,
            cluster=workers.ray,
            gpus=workers.gpus_per_run or 1.0,
            max_silence=workers.max_silence,
            request=Request.of(stem(name), overrides or (), runs),
        )
    except Interrupted as interrupted:
        terminal.print(
            f"Stopped. {interrupted.finished} of {len(runs)} runs are finished and kept in {folder}; "
            f"the same command{' without --force' if force else ''} goes on from there.",
            markup=False,
        )
        raise typer.Exit(INTERRUPTED) from None


def check_own_code(name: str, runs: Sequence[Run], environment: RunEnvironment) -> None:
    """Check that the user's own code in a protocol can be run; without any, nothing is imported."""
    if any(run.own_code for run in runs):
        from study.run import dry_run

        try:
            dry_run.check_own_code(runs, environment)
        except ProtocolError as error:
            raise ProtocolError(f"{name}: {error}") from error


def _say_what_is_where(folder: Path, then: str) -> None:
    typer.echo(f"records: {folder}", err=True)
    if any(folder.glob("wandb/offline-run-*")):
        typer.echo(
            f"W&B: {folder / 'wandb'}; to send them: wandb sync {shlex.quote(str(folder))}/wandb/offline-run-*",
            err=True,
        )
    typer.echo(then, err=True)


def _exit_if_any_failed(records: Sequence[RunRecord]) -> None:
    bad = [record for record in records if not record.finished]
    if bad:
        kinds = Counter("lost" if is_lost(record) else record.outcome for record in bad)
        counts = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        why = "; their records say why" if kinds.keys() - {"lost"} else ""
        again = "; the same command tries runs that failed or were lost again" if kinds.keys() - {"diverged"} else ""
        typer.echo(f"{len(bad)} of {len(records)} runs did not finish ({counts}){why}{again}", err=True)
        raise typer.Exit(SOME_RUNS_FAILED)
