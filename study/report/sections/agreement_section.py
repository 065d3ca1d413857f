"""Agreement of importances."""

from collections.abc import Callable, Sequence
from statistics import mean, median

from study.records.importance_agreement import ImportanceAgreement
from study.report.analysis import Analysis
from study.report.document import Cell, Column, Paragraph, Section, Table, section_by_scenario
from study.report.number_formats import count, strength

MEASURES = ("spearman", "pearson", "cosine")


def agreement_section(analysis: Analysis) -> Section | None:
    rows = analysis.attachments.agreement
    if not rows:
        return None
    subsections = [
        Section(f"agreement-{scenario}", f"{scenario.capitalize()}-incremental", (_table(scenario, of_scenario),))
        for scenario in dict.fromkeys(row.scenario for row in rows)
        if (of_scenario := [row for row in rows if row.scenario == scenario])
    ]
    seeds, experiences = (len({getattr(row, key) for row in rows}) for key in ("seed", "experience"))
    machines = ", ".join(dict.fromkeys(f"PyTorch {row.torch} on {row.processor}" for row in rows))
    how = (
        f"One network for each of {count(seeds, 'seed')}, trained without a penalty. After each of {experiences} "
        "experiences every importance is measured on the same network and data, in one thread. Cost: median, in "
        "training epochs on that data. Correlations and cosine with the exact Fisher: mean [least, largest] over seeds "
        "and experiences. Size: sum over that of the exact Fisher; λ scales with its inverse. Entries that are 0 in "
        f"both are left out. `agreement.csv` has every measurement, by {machines}."
    )
    return section_by_scenario("agreement", "Agreement of importances", [Paragraph(how)], subsections)


def _table(scenario: str, rows: Sequence[ImportanceAgreement]) -> Table:
    columns = (
        Column("method", "name"),
        Column("cost, epochs"),
        Column("rank correlation (Spearman)"),
        Column("correlation (Pearson)"),
        Column("cosine"),
        Column("size over exact"),
    )
    cells = []
    for method in dict.fromkeys(row.method for row in rows):
        of_method = [row for row in rows if row.method == method]
        cost = median(row.epochs for row in of_method)
        cells.append(
            (
                Cell(method, method),
                Cell(f"{cost:.2f}", cost),
                *(_range([getattr(row, key) for row in of_method], _three) for key in MEASURES),
                _range([row.ratio for row in of_method], lambda value: strength(float(f"{value:.2g}"))),
            )
        )
    caption = f"{scenario.capitalize()}-incremental: cost of an importance, and its agreement with the exact Fisher"
    return Table(f"agreement-{scenario}", caption, columns, tuple(cells))


def _three(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _range(values: Sequence[float], text: Callable[[float], str]) -> Cell:
    least, average, largest = min(values), mean(values), max(values)
    shown = text(average)
    bounds = (text(least), text(largest))
    return Cell(shown if bounds == (shown, shown) else f"{shown} [{bounds[0]}, {bounds[1]}]", average)
