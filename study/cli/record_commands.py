"""Commands on records: report, overview, compare, agreement and repeat."""

import shlex
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from study.campaign.one_run import perform_and_record
from study.campaign.repetition import difference
from study.cli import options
from study.cli.folders import (
    code_folder,
    command_to_repeat,
    folder_named,
    protocol_as_run,
    records_and_method,
    records_folder,
    records_of_the_current_code,
    records_saying_what_is_left_out,
    stem,
    tuning_records,
)
from study.cli.run_commands import check_own_code
from study.cli.terminal import print_table
from study.errors import SOME_RUNS_FAILED, ProtocolError
from study.protocol.schema import MOST_SEEDS
from study.records.code_versions import of_one_version
from study.records.store import RecordError, RunStore
from study.run.run_environment import RunEnvironment


def report(
    name: options.Name,
    records: options.Records = None,
    tuning: options.TuningFolder = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; by default <records>/report.")] = None,
    overrides: options.Overrides = None,
) -> None:
    """Write a report: Markdown, HTML, figures, CSV and Parquet.

    JSON files that are not records are named and left out; a damaged record is an error.
    """
    folder = records or records_folder(name)
    protocol, request = protocol_as_run(name, overrides, folder)
    given = request.overrides if request else overrides
    again = command_to_repeat(name, protocol, records=records, tuning=tuning, overrides=given)
    found = records_saying_what_is_left_out(folder, protocol.own_code, again)
    searched, of_other_code = of_one_version(tuning_records(name, tuning, archived_in=folder), protocol.own_code)
    for sentence in of_other_code:
        typer.echo(f"of the search, {sentence}", err=True)
    from study.report.attachments import read_attachments
    from study.report.write_report import write_report  # here, since other commands need not wait for matplotlib

    target = out or folder / "report"
    attachments = read_attachments([target, folder], protocol, code_folder(name))
    in_place = target.resolve() == folder.resolve()
    written = write_report(stem(name), protocol, found, searched, target, attachments, only_copy=in_place)
    typer.echo(f"written: {written.page}")
    if written.left_out:
        typer.echo(written.left_out)


def overview(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with reports below it.")] = Path("reports"),
) -> None:
    """Write an overview of all reports below a folder: their verdicts on published numbers, and their answers."""
    from study.report.overview import write_overview

    typer.echo(f"written: {write_overview(folder)}")


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A protocol or a folder of records, with :METHOD for one.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="MORE", help="More of them, with --ranks.")] = None,
    ranks: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Rank methods over all studies and scenarios, and write a page to FOLDER."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help="With --ranks: only these methods, separated by commas; by default those that all share."),
    ] = None,
) -> None:
    """Compare two sets of runs, paired by seed: methods, or the same methods under other settings.

    With --ranks, any number of studies: Friedman's test over their scenarios.
    """
    from study.report.study_comparison import comparison_table

    if ranks is not None:
        _rank([a, b, *(more or ())], ranks, methods)
        return
    if more:
        raise ProtocolError(f"{2 + len(more)} studies to compare; allowed: two, or any number with --ranks FOLDER")
    if methods is not None:
        raise ProtocolError(f"--methods {methods} goes with --ranks; allowed without it: A:METHOD and B:METHOD")
    (a_records, a_method), (b_records, b_method) = (records_and_method(argument) for argument in (a, b))
    print_table(comparison_table((a, a_records, a_method), (b, b_records, b_method)))


def _rank(names: list[str], folder: Path, methods: str | None) -> None:
    """Print average ranks over studies, and write the page."""
    from study.report.rich_tables import to_terminal
    from study.report.study_ranking import rank_studies, write_ranking

    studies = []
    for name in dict.fromkeys(names):
        records, method = records_and_method(name)
        if method is not None:
            raise ProtocolError(f"--ranks: {name} names one method; allowed: whole studies, whose methods are ranked")
        studies.append((name, records))
    there = dict.fromkeys(record.run.label for _, records in studies for record in records)
    named = None if methods is None else options.selected("--methods", methods, there)
    ranking = rank_studies(studies, named)
    more = [] if methods is None else ["--methods", methods]
    command = shlex.join(["clreg-study", "compare", *(name for name, _ in studies), "--ranks", str(folder), *more])
    page = write_ranking(ranking, command, folder)
    print_table(to_terminal(ranking.ranks))
    typer.echo(f"written: {page}")


def agreement(
    name: options.Name,
    seeds: Annotated[int, typer.Option(min=1, max=MOST_SEEDS, help="How many seeds.")] = 3,
    scenario: options.Scenarios = None,
    data_root: options.DataRoot = None,
    out: options.Out = None,
    overrides: options.Overrides = None,
) -> None:
    """Compare the importances of a protocol's EWC methods with the exact one on the same networks, and their cost.

    They go to agreement.csv, and `report` includes them. After an interrupt the same command resumes; delete the file
    to measure again.
    """
    folder = out or records_folder(name)
    protocol, _ = protocol_as_run(name, overrides, folder)
    scenarios = options.selected("--scenario", scenario, protocol.scenarios)
    root = options.checked_data(protocol.benchmark.name, options.Device.cpu, data_root)
    environment = RunEnvironment(root, code_folder=code_folder(name))
    from study.campaign.measure_agreement import measure_agreement
    from study.records.importance_agreement import AGREEMENT_FILE, read_agreement, write_agreement

    path = folder / AGREEMENT_FILE
    with RunStore(folder).locked():
        rows = {row.where: row for row in read_agreement(path) if row.belongs_to(protocol)} if path.is_file() else {}
        for kind, seed in product(scenarios, protocol.run_seeds(seeds)):
            known = list(rows.values())
            for measured in measure_agreement(stem(name), protocol, kind, seed, environment, known):
                rows |= {row.where: row for row in measured}
                write_agreement(list(rows.values()), path)
                for row in measured:
                    where = f"{kind}, seed {seed}, experience {row.experience}, {row.method}"
                    typer.echo(f"{where}: {row.epochs:.2f} epochs, rank correlation {row.spearman:.3f}")
    typer.echo(f"written: {path}")


def repeat(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A protocol, or a folder of records or of a report.")],
    methods: options.Methods = None,
    scenario: options.Scenarios = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the runs.")] = 0,
    data_root: options.DataRoot = None,
) -> None:
    """Repeat recorded runs and check that the numbers are equal to the last bit."""
    from study.report.number_formats import SECONDS, quantity

    folder = folder_named(name)
    there = [record for record in records_of_the_current_code(name) if record.run.seed == seed]
    if not there:
        raise RecordError(f"{folder} has no record with seed {seed}")
    labels = options.selected("--methods", methods, dict.fromkeys(record.run.label for record in there))
    kinds = options.selected("--scenario", scenario, dict.fromkeys(record.run.scenario for record in there))
    records = [record for record in there if record.run.label in labels and record.run.scenario in kinds]
    device = options.Device.cuda if any(record.run.device == "cuda" for record in records) else options.Device.cpu
    for benchmark in {record.run.benchmark.name for record in records}:
        root = options.checked_data(benchmark, device, data_root)
    environment = RunEnvironment(root, code_folder=code_folder(name))
    check_own_code(name, [record.run for record in records], environment)
    others = 0
    for number, record in enumerate(records, 1):
        before = f"which took {quantity(record.seconds.total, SECONDS)}"
        typer.echo(f"{number} of {len(records)}: {record.run}, {before}", err=True)
        changed = difference(record, perform_and_record(record.run, environment))
        others += bool(changed)
        typer.echo(f"{record.run}: {changed or 'the same numbers to the last bit'}")
    if others:
        raise typer.Exit(SOME_RUNS_FAILED)
