"""Methods ranked over several studies."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from study.errors import StudyError
from study.records.run_record import RunRecord
from study.report.comparisons import LEVEL
from study.report.document import Column, number, table_of, word
from study.report.figures.ranks_figure import ranks_figure
from study.report.figures.style import looks, standalone
from study.report.number_formats import count, enumeration, p_equals, points
from study.report.rich_tables import to_terminal
from study.report.study_comparison import by_method, of_one_setting
from study.statistics import FriedmanResult, friedman

Study = tuple[str, Sequence[RunRecord]]  # what it is called, and its records


@dataclass(frozen=True)
class Ranks:
    """Methods ranked by average accuracy in several scenarios.

    Attributes:
        blocks: names of the scenarios.
        methods: those that finished in all of them.
        result: Friedman's test and Nemenyi's critical difference.
    """

    blocks: tuple[str, ...]
    methods: tuple[str, ...]
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
    kinds: dict[str, tuple[str, str]] = {}
    for study, records in studies:
        finished = by_method(records)
        if not finished:
            raise StudyError(f"{study} has no finished run, and nothing to rank")
        for (scenario, method), of_method in finished.items():
            runs = of_one_setting(study, of_method)
            kind = runs.run.method.kind
            first, where = kinds.setdefault(method, (kind, study))
            if kind != first:
                raise StudyError(
                    f"{method!r} is of kind {kind!r} in {study} and {first!r} in {where}; allowed: one kind"
                )
            scores.setdefault(f"{study}, {scenario}", {})[method] = sum(runs.scores.values()) / len(runs.scores)
    shared = [method for method in kinds if all(method in block for block in scores.values())]
    if len(scores) < 2 or len(shared) < 3:
        raise StudyError(
            f"{enumeration(name for name, _ in studies)}: {count(len(scores), 'scenario')}, and "
            f"{count(len(shared), 'method')}{f' ({enumeration(shared)})' if shared else ''} that finished in all; "
            "ranks need at least 2 scenarios and 3 methods"
        )
    found = friedman([[block[method] for method in shared] for block in scores.values()], LEVEL)
    return Ranks(tuple(scores), tuple(shared), found)


def ranks_table(ranks: Ranks, studies: Sequence[Study]) -> Table:
    """Average ranks, best first, with Friedman's test."""
    columns: tuple[Column[tuple[str, float]], ...] = (
        Column("method", lambda row: word(row[0]), "name"),
        Column("average rank", lambda row: number(row[1], points)),
    )
    caption = f"average ranks over {len(ranks.blocks)} scenarios"
    return to_terminal(table_of("ranks", caption, ranks.best_first, *columns, notes=_notes(ranks, studies)))


def _notes(ranks: Ranks, studies: Sequence[Study]) -> list[str]:
    result = ranks.result
    benchmarks = {record.run.benchmark.name for _, records in studies for record in records}
    said = [
        f"Over {'; '.join(ranks.blocks)}. Friedman's χ² = {result.chi2:.2f}, {p_equals(result.p)}; Iman and "
        f"Davenport's {p_equals(result.p_f)}. Nemenyi's critical difference: {points(result.critical_difference)}."
    ]
    if result.critical_difference >= len(ranks.methods) - 1:
        said.append("So few scenarios cannot tell so many methods apart by rank.")
    groups = [enumeration(ranks.methods[index] for index in group) for group in result.groups]
    if groups:
        said.append(f"Not told apart: {'; '.join(groups)}.")
    if len(benchmarks) < len(ranks.blocks):
        said.append(
            f"These are {count(len(benchmarks), 'benchmark')} ({enumeration(sorted(benchmarks))}): scenarios of one "
            "benchmark are not independent, and p is too small."
        )
    return said


def ranks_svg(ranks: Ranks, studies: Sequence[Study]) -> str:
    methods = {record.run.label: record.run.method for _, records in studies for record in records}
    alt = f"Average ranks: {', '.join(f'{method} {rank:.2f}' for method, rank in ranks.best_first)}."
    return standalone(ranks_figure("ranks", alt, ranks.methods, ranks.result, looks(methods)))
