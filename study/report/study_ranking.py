"""Methods ranked over several studies."""

from collections.abc import Sequence

from rich.table import Table

from study.errors import StudyError
from study.protocol.settings import Method
from study.records.run_record import RunRecord
from study.report.comparisons import LEVEL
from study.report.document import Column, table_of
from study.report.figures.ranks_figure import ranks_figure
from study.report.figures.style import looks, standalone
from study.report.number_formats import count, enumeration, p_equals, points
from study.report.rich_tables import to_terminal
from study.report.study_comparison import by_method, of_one_setting
from study.statistics import FriedmanResult, friedman

Study = tuple[str, Sequence[RunRecord]]  # what it is called, and its records


def rank_studies(studies: Sequence[Study]) -> tuple[Table, str]:
    """Rank the methods that finished in every scenario of every study by mean average accuracy.

    Methods match by name and kind; options and λ may differ between studies.

    Returns:
        The table of average ranks, best first, with Friedman's test, and the text of an SVG file that shows it.

    Raises:
        StudyError: a study has no finished run; there are fewer than 2 scenarios or 3 common methods; settings differ
            within a study; or a name stands for two kinds.
    """
    scores: dict[str, dict[str, float]] = {}
    kinds: dict[str, tuple[Method, str]] = {}
    benchmarks = {record.run.benchmark.name for _, records in studies for record in records}
    for study, records in studies:
        finished = by_method(records)
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
            scores.setdefault(f"{study}, {scenario}", {})[method] = one.accuracy.mean
    shared = {
        method: settings for method, (settings, _) in kinds.items() if all(method in block for block in scores.values())
    }
    if len(scores) < 2 or len(shared) < 3:
        raise StudyError(
            f"{enumeration(name for name, _ in studies)}: {count(len(scores), 'scenario')}, and "
            f"{count(len(shared), 'method')}{f' ({enumeration(shared)})' if shared else ''} that finished in all; "
            "ranks need at least 2 scenarios and 3 methods"
        )
    result = friedman([[block[method] for method in shared] for block in scores.values()], LEVEL)
    best_first = sorted(zip(shared, result.average_ranks, strict=True), key=lambda item: item[1])
    columns: tuple[Column[tuple[str, float]], ...] = (
        Column("method", lambda row: row[0]),
        Column("average rank", lambda row: row[1], points),
    )
    notes = _notes(list(scores), list(shared), sorted(benchmarks), result)
    table = table_of("ranks", f"average ranks over {len(scores)} scenarios", best_first, *columns, notes=notes)
    alt = f"Average ranks: {', '.join(f'{method} {rank:.2f}' for method, rank in best_first)}."
    return to_terminal(table), standalone(ranks_figure("ranks", alt, list(shared), result, looks(shared)))


def _notes(blocks: list[str], methods: list[str], benchmarks: list[str], result: FriedmanResult) -> list[str]:
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
