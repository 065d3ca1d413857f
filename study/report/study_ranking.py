"""Methods ranked over several studies."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from study.errors import StudyError
from study.records.run_record import RunRecord
from study.report.comparisons import Ranks, rank_methods
from study.report.figures.ranks_figure import ranks_figure
from study.report.figures.style import looks, standalone
from study.report.number_formats import count, enumeration, points
from study.report.plain_tables import add_plain_row, number_columns, plain_table
from study.report.study_comparison import by_method, of_one_setting

Study = tuple[str, Sequence[RunRecord]]  # what it is called, and its records


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
    ranks = rank_methods(scores)
    if ranks is None:
        shared = [method for method in kinds if all(method in block for block in scores.values())]
        raise StudyError(
            f"{enumeration(name for name, _ in studies)}: {count(len(scores), 'scenario')}, and "
            f"{count(len(shared), 'method')}{f' ({enumeration(shared)})' if shared else ''} that finished in all; "
            "ranks need at least 2 scenarios and 3 methods"
        )
    return ranks


def ranks_table(ranks: Ranks, studies: Sequence[Study]) -> Table:
    """Average ranks, best first, with Friedman's test."""
    table = plain_table(f"average ranks over {len(ranks.blocks)} scenarios", "method", *number_columns("average rank"))
    for method, rank in ranks.best_first:
        add_plain_row(table, method, points(rank))
    table.caption = Text(" ".join(_caption(ranks, studies)))
    table.caption_justify = "left"
    return table


def _caption(ranks: Ranks, studies: Sequence[Study]) -> list[str]:
    result = ranks.result
    benchmarks = {record.run.benchmark.name for _, records in studies for record in records}
    said = [
        f"Over {'; '.join(ranks.blocks)}. {ranks.friedman} Nemenyi's critical difference: "
        f"{points(result.critical_difference)}."
    ]
    if not ranks.can_differ:
        said.append("So few scenarios cannot tell so many methods apart by rank.")
    alike = [enumeration(ranks.methods[index] for index in group) for group in result.groups]
    if alike:
        said.append(f"Not told apart: {'; '.join(alike)}.")
    if len(benchmarks) < len(ranks.blocks):
        said.append(
            f"These are {count(len(benchmarks), 'benchmark')} ({enumeration(sorted(benchmarks))}): what shares one is "
            "not independent, and p is too small."
        )
    return said


def ranks_svg(ranks: Ranks, studies: Sequence[Study]) -> str:
    methods = {record.run.label: record.run.method for _, records in studies for record in records}
    return standalone(ranks_figure("ranks", ranks.averages, ranks, looks(methods)))
