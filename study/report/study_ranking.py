"""Methods ranked over several studies."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from study.errors import StudyError
from study.records.run_record import RunRecord
from study.report.comparisons import LEVEL
from study.report.document import Column, table_of
from study.report.figures.ranks_figure import ranks_figure
from study.report.figures.style import looks, standalone
from study.report.number_formats import count, enumeration, p_equals, points
from study.report.rich_tables import to_terminal
from study.report.study_comparison import by_method, of_one_setting
from study.run.specification import Run
from study.statistics import FriedmanResult, friedman

Study = tuple[str, Sequence[RunRecord]]  # what it is called, and its records


@dataclass(frozen=True)
class Ranks:
    """Methods ranked by average accuracy.

    Attributes:
        blocks: names of the scenarios.
        methods: those that finished in all of them, with a run of each.
        benchmarks: names of the benchmarks.
        result: Friedman's test and Nemenyi's critical difference.
    """

    blocks: tuple[str, ...]
    methods: dict[str, Run]
    benchmarks: tuple[str, ...]
    result: FriedmanResult

    @property
    def best_first(self) -> list[tuple[str, float]]:
        return sorted(zip(self.methods, self.result.average_ranks, strict=True), key=lambda item: item[1])


def rank_studies(studies: Sequence[Study]) -> Ranks:
    """Rank the methods that finished in every scenario of every study by mean average accuracy.

    Methods match by name and kind; options and λ may differ between studies.

    Raises:
        StudyError: a study has no finished run; there are fewer than 2 scenarios or 3 common methods; settings differ
            within a study; or a name stands for two kinds.
    """
    scores: dict[str, dict[str, float]] = {}
    runs: dict[str, tuple[Run, str]] = {}
    for study, records in studies:
        finished = by_method(records)
        if not finished:
            raise StudyError(f"{study} has no finished run, and nothing to rank")
        for (scenario, method), of_method in finished.items():
            one = of_one_setting(study, of_method)
            first, where = runs.setdefault(method, (one.run, study))
            if one.run.method.kind != first.method.kind:
                raise StudyError(
                    f"{method!r} is of kind {one.run.method.kind!r} in {study} and {first.method.kind!r} in {where}; "
                    "allowed: one kind"
                )
            scores.setdefault(f"{study}, {scenario}", {})[method] = sum(one.scores.values()) / len(one.scores)
    shared = {method: run for method, (run, _) in runs.items() if all(method in block for block in scores.values())}
    if len(scores) < 2 or len(shared) < 3:
        raise StudyError(
            f"{enumeration(name for name, _ in studies)}: {count(len(scores), 'scenario')}, and "
            f"{count(len(shared), 'method')}{f' ({enumeration(shared)})' if shared else ''} that finished in all; "
            "ranks need at least 2 scenarios and 3 methods"
        )
    found = friedman([[block[method] for method in shared] for block in scores.values()], LEVEL)
    benchmarks = sorted({record.run.benchmark.name for _, records in studies for record in records})
    return Ranks(tuple(scores), shared, tuple(benchmarks), found)


def ranks_table(ranks: Ranks) -> Table:
    """Average ranks, best first, with Friedman's test."""
    result, methods = ranks.result, list(ranks.methods)
    notes = [
        f"Over {'; '.join(ranks.blocks)}. Friedman's χ² = {result.chi2:.2f}, {p_equals(result.p)}; Iman and "
        f"Davenport's {p_equals(result.p_f)}. Nemenyi's critical difference: {points(result.critical_difference)}."
    ]
    if result.critical_difference >= len(methods) - 1:
        notes.append("So few scenarios cannot tell so many methods apart by rank.")
    if result.groups:
        groups = "; ".join(enumeration(methods[index] for index in group) for group in result.groups)
        notes.append(f"Not told apart: {groups}.")
    if len(ranks.benchmarks) < len(ranks.blocks):
        notes.append(
            f"These are {count(len(ranks.benchmarks), 'benchmark')} ({enumeration(ranks.benchmarks)}): scenarios of "
            "one benchmark are not independent, and p is too small."
        )
    columns: tuple[Column[tuple[str, float]], ...] = (
        Column("method", lambda row: row[0]),
        Column("average rank", lambda row: row[1], points),
    )
    caption = f"average ranks over {len(ranks.blocks)} scenarios"
    return to_terminal(table_of("ranks", caption, ranks.best_first, *columns, notes=notes))


def ranks_svg(ranks: Ranks) -> str:
    alt = f"Average ranks: {', '.join(f'{method} {rank:.2f}' for method, rank in ranks.best_first)}."
    of_methods = looks({method: run.method for method, run in ranks.methods.items()})
    return standalone(ranks_figure("ranks", alt, list(ranks.methods), ranks.result, of_methods))
