"""Methods ranked over several studies, and the page that says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from study.errors import StudyError
from study.protocol.settings import Method
from study.records.run_record import RunRecord
from study.report.comparisons import LEVEL
from study.report.document import Code, Column, Document, Figure, Gallery, Section, Table, table_of
from study.report.figures.ranks_figure import ranks_figure
from study.report.figures.style import looks
from study.report.markdown import FIGURES, check_page, write_page
from study.report.method_results import MethodResult
from study.report.number_formats import count, enumeration, p_equals, points
from study.report.study_comparison import by_method, of_one_setting
from study.statistics import FriedmanResult, friedman

Study = tuple[str, Sequence[RunRecord]]  # what it is called, and its records
Block = dict[str, MethodResult]  # of one scenario of a study, by method
NAME = "ranks"
DRAWING = f"{FIGURES}/{NAME}.svg"


@dataclass(frozen=True)
class Ranking:
    """Average ranks, best first, with Friedman's test; their figure; the accuracies that they are of."""

    answer: str
    ranks: Table
    figure: Figure
    accuracies: Table


def rank_studies(studies: Sequence[Study], methods: Sequence[str] | None = None) -> Ranking:
    """Rank methods by mean average accuracy in every scenario of every study.

    Methods match by name and kind; options and λ may differ between studies.

    Args:
        studies: any number.
        methods: those to rank; by default all that finished in every scenario.

    Raises:
        StudyError: a study has no finished run; there are fewer than 2 scenarios or 3 methods; a method did not finish
            in a scenario; settings differ within a study; or a name stands for two kinds.
    """
    blocks: dict[str, Block] = {}
    kinds: dict[str, tuple[Method, str]] = {}
    for study, records in studies:
        finished = by_method([record for record in records if methods is None or record.run.label in methods])
        if not finished:
            raise StudyError(f"{study} has no finished run, and nothing to rank")
        for (scenario, method), of_method in finished.items():
            one = of_one_setting(study, of_method)
            first, where = kinds.setdefault(method, (one.settings, study))
            if one.settings.kind != first.kind:
                raise StudyError(
                    f"{method!r} is of kind {one.settings.kind!r} in {study} and {first.kind!r} in {where}; "
                    "allowed: one kind"
                )
            blocks.setdefault(f"{study}, {scenario}", {})[method] = one
    for method in methods or ():
        if lacking := [name for name, block in blocks.items() if method not in block]:
            raise StudyError(f"{method!r} has no finished run in {'; '.join(lacking)}; allowed: methods that all share")
    shared = {
        method: settings for method, (settings, _) in kinds.items() if all(method in block for block in blocks.values())
    }
    if len(blocks) < 2 or len(shared) < 3:
        raise StudyError(
            f"{enumeration(name for name, _ in studies)}: {count(len(blocks), 'scenario')}, and "
            f"{count(len(shared), 'method')}{f' ({enumeration(shared)})' if shared else ''} that finished in all; "
            "ranks need at least 2 scenarios and 3 methods"
        )
    result = friedman([[block[method].accuracy.mean for method in shared] for block in blocks.values()], LEVEL)
    best_first = sorted(zip(shared, result.average_ranks, strict=True), key=lambda item: item[1])
    columns: tuple[Column[tuple[str, float]], ...] = (
        Column("method", lambda row: row[0]),
        Column("average rank", lambda row: row[1], points),
    )
    notes = _notes(blocks, list(shared), sorted({r.run.benchmark.name for _, rs in studies for r in rs}), result)
    table = table_of(NAME, f"Average ranks over {len(blocks)} scenarios", best_first, *columns, notes=notes)
    alt = f"Average ranks: {', '.join(f'{method} {rank:.2f}' for method, rank in best_first)}."
    figure = Figure(
        NAME,
        "Average ranks. A bar joins methods that Nemenyi's test does not tell apart.",
        alt,
        ranks_figure(NAME, alt, list(shared), result, looks(shared)),
    )
    differ = "The average ranks differ" if result.p <= LEVEL else "No difference of the average ranks is shown"
    answer = f"{differ}: Friedman's test over {count(len(blocks), 'scenario')}, {p_equals(result.p)}."
    return Ranking(answer, table, figure, _accuracies(blocks, [method for method, _ in best_first]))


def write_ranking(ranking: Ranking, command: str, folder: Path) -> Path:
    """Write the page and its figure; the same ranking gives the same bytes.

    Returns:
        The path of the page.

    Raises:
        StudyError: the folder holds the page of something else.
    """
    check_page("--ranks", folder, DRAWING)
    sections = (
        Section("accuracies", "Average accuracies", (ranking.accuracies,)),
        Section("reproduction", "Reproduction", (Code(command, "sh"),)),
    )
    head = (Gallery((ranking.figure,)), ranking.ranks)
    return write_page(Document("Methods ranked over several studies", ranking.answer, head, sections), folder)


def _accuracies(blocks: dict[str, Block], methods: Sequence[str]) -> Table:
    def seeds(block: Block) -> str:
        numbers = [len(block[method].scores) for method in methods]
        return " to ".join(str(number) for number in sorted({min(numbers), max(numbers)}))

    def mean_of(method: str) -> Column[tuple[str, Block]]:
        return Column(method, lambda row: row[1][method].accuracy.mean, points)

    return table_of(
        "accuracies",
        "Average accuracy %, mean over seeds",
        blocks.items(),
        Column("study, scenario", lambda row: row[0]),
        Column("seeds", lambda row: seeds(row[1])),
        *map(mean_of, methods),
    )


def _notes(blocks: dict[str, Block], methods: list[str], benchmarks: list[str], result: FriedmanResult) -> list[str]:
    notes = [
        f"Over {'; '.join(blocks)}. Friedman's χ² = {result.chi2:.2f}, {p_equals(result.p)}; Iman and "
        f"Davenport's {p_equals(result.p_f)}. Nemenyi's critical difference: {points(result.critical_difference)}."
    ]
    if result.critical_difference >= len(methods) - 1:
        notes.append("So few scenarios cannot tell so many methods apart by rank.")
    if result.groups:
        groups = "; ".join(enumeration(methods[index] for index in group) for group in result.groups)
        notes.append(f"Not told apart: {groups}.")
    if len(benchmarks) < len(blocks):
        notes.append(
            f"These are {count(len(benchmarks), 'benchmark')} ({enumeration(benchmarks)}): scenarios of one benchmark "
            "are not independent, and p is too small."
        )
    return notes
