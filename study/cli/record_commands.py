"""Commands on records: report, overview, compare, agreement and repeat."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from study.atomic import write_atomically
from study.cli.options import (
    DataRoot,
    Device,
    Methods,
    Name,
    Overrides,
    Scenarios,
    TuningFolder,
    checked_data,
    code_folder,
    folder_named,
    records_and_method,
    records_folder,
    records_saying_what_is_left_out,
    selected,
    stem,
    tuning_records,
)
from study.cli.user_errors import SOME_RUNS_FAILED, errors_without_traceback
from study.errors import ProtocolError
from study.protocol.load import load_protocol
from study.records.store import RecordError
from study.run.run_environment import RunEnvironment

if TYPE_CHECKING:
    from study.campaign.repetition import Repetition


def report(
    name: Name,
    records: Annotated[
        Path | None, typer.Option(help="Folder of the records, or of a report; by default runs/<protocol>.")
    ] = None,
    tuning: TuningFolder = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; by default <records>/report.")] = None,
    overrides: Overrides = None,
) -> None:
    """Write a report: Markdown, HTML, LaTeX tables, figures, CSV and Parquet.

    JSON files that are not records are named and left out; a damaged record is an error.
    """
    with errors_without_traceback():
        protocol = load_protocol(name, overrides or ())
        folder = records or records_folder(name)
        found = records_saying_what_is_left_out(folder)
        searched = tuning_records(name, tuning, archived_in=folder)
        from study.report.attachments import read_attachments
        from study.report.write_report import (
            write_report,  # here, since the other commands need not wait for matplotlib
        )

        target = out or folder / "report"
        attachments = read_attachments([target, folder], protocol)
        written = write_report(stem(name), protocol, found, searched, target, attachments)
        typer.echo(f"written: {written.page}")
        if written.left_out:
            typer.echo(written.left_out)


def overview(
    folder: Annotated[Path, typer.Argument(help="Folder with reports below it.")] = Path("reports"),
) -> None:
    """Write one page on all reports below a folder: every number published for them, and ours."""
    with errors_without_traceback():
        from study.report.overview import write_overview

        typer.echo(f"written: {write_overview(folder)}")


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A protocol or a folder of records, with :METHOD for one.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
    more: Annotated[list[str] | None, typer.Argument(help="Further ones, with --ranks.")] = None,
    ranks: Annotated[
        Path | None,
        typer.Option(help="SVG file: rank the methods that all share over all studies and scenarios, and draw it."),
    ] = None,
) -> None:
    """Compare two sets of runs, paired by seed: methods, or the same methods under other settings.

    With --ranks, any number of studies: Friedman's test over their scenarios.
    """
    from study.report.study_comparison import comparison_table

    with errors_without_traceback():
        if ranks is not None:
            _rank([a, b, *(more or ())], ranks)
            return
        if more:
            raise ProtocolError(
                f"{2 + len(more)} studies to compare; allowed: two, or any number with --ranks FILE.svg"
            )
        (a_records, a_method), (b_records, b_method) = (records_and_method(argument) for argument in (a, b))
        Console().print(comparison_table((a, a_records, a_method), (b, b_records, b_method)))


def _rank(names: list[str], path: Path) -> None:
    """Print average ranks over studies and draw them."""
    from study.report.study_ranking import rank_studies, ranks_svg, ranks_table

    studies = []
    for name in dict.fromkeys(names):
        records, method = records_and_method(name)
        if method is not None:
            raise ProtocolError(f"--ranks: {name} names one method; allowed: whole studies, whose methods are ranked")
        studies.append((name, records))
    found = rank_studies(studies)
    Console().print(ranks_table(found, studies))
    write_atomically(path, ranks_svg(found, studies).encode())
    typer.echo(f"drawn: {path}")


def agreement(
    name: Name,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    scenario: Scenarios = None,
    data_root: DataRoot = None,
    out: Annotated[Path | None, typer.Option(help="Folder for agreement.csv; by default runs/<protocol>.")] = None,
    overrides: Overrides = None,
) -> None:
    """Compare the importances of a protocol's EWC methods with the exact one on the same networks, and their cost.

    `report` includes the result. After an interrupt the same command goes on; delete the file to measure again.
    """
    with errors_without_traceback():
        protocol = load_protocol(name, overrides or ())
        scenarios = selected("--scenario", scenario, protocol.scenarios)
        environment = RunEnvironment(
            checked_data(protocol.benchmark.name, Device.cpu, data_root), code_folder=code_folder(name)
        )
        from study.campaign.measure_agreement import measure_agreement
        from study.records.importance_agreement import AGREEMENT_FILE, read_agreement, write_agreement

        path = (out or records_folder(name)) / AGREEMENT_FILE
        rows = {row.where: row for row in read_agreement(path) if row.belongs_to(protocol)} if path.is_file() else {}
        for kind in scenarios:
            for seed in protocol.run_seeds(seeds):
                known = list(rows.values())
                for measured in measure_agreement(stem(name), protocol, kind, seed, environment, known):
                    rows |= {row.where: row for row in measured}
                    write_agreement(list(rows.values()), path)
                    for row in measured:
                        where = f"{kind}, seed {seed}, experience {row.experience}, {row.method}"
                        typer.echo(f"{where}: {row.epochs:.2f} epochs, rank correlation {row.spearman:.3f}")
        typer.echo(f"written: {path}")


def repeat(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A protocol's name, or a folder of records or of a report.")
    ],
    methods: Methods = None,
    scenario: Scenarios = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the runs.")] = 0,
    data_root: DataRoot = None,
) -> None:
    """Perform recorded runs again and compare the numbers, to the last bit."""
    from study.campaign.repetition import perform_again
    from study.report.number_formats import SECONDS, quantity

    with errors_without_traceback():
        folder = folder_named(name)
        there = [record for record in records_saying_what_is_left_out(folder) if record.run.seed == seed]
        if not there:
            raise RecordError(f"{folder} has no record with seed {seed}")
        labels = selected("--methods", methods, list(dict.fromkeys(record.run.label for record in there)))
        kinds = selected("--scenario", scenario, list(dict.fromkeys(record.run.scenario for record in there)))
        records = [record for record in there if record.run.label in labels and record.run.scenario in kinds]
        device = Device.cuda if any(record.run.device == "cuda" for record in records) else Device.cpu
        for benchmark in {record.run.benchmark.name for record in records}:
            root = checked_data(benchmark, device, data_root)
        environment = RunEnvironment(root, code_folder=code_folder(name))
        others = 0
        for number, record in enumerate(records, 1):
            before = f"which took {quantity(record.seconds.total, SECONDS)}"
            typer.echo(f"{number} of {len(records)}: {record.run}, {before}", err=True)
            repetition = perform_again(record, environment)
            others += not repetition.same
            typer.echo(f"{record.run}: {_came_to(repetition)}")
        if others:
            raise typer.Exit(SOME_RUNS_FAILED)


def _came_to(repetition: "Repetition") -> str:
    if repetition.same:
        return "the same numbers to the last bit"
    environment = f" ({'; '.join(repetition.changed_environment)})" if repetition.changed_environment else ""
    before, now = repetition.before, repetition.now
    if not now.finished:
        return f"{before.outcome} before, {now.outcome} now: {now.last_line}{environment}"
    if not before.finished:
        return f"{before.outcome} before ({before.last_line}), finished now{environment}"
    return f"other numbers, accuracies by up to {repetition.largest_difference:.2f} points{environment}"
