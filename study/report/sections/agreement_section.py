"""Agreement of importances."""

from collections.abc import Callable, Sequence
from statistics import mean, median

from study.records.importance_agreement import ImportanceAgreement
from study.report.analysis import Analysis
from study.report.document import Cell, Column, Section, Table, table_of
from study.report.number_formats import count, points, strength

Rows = Sequence[ImportanceAgreement]


def agreement_section(analysis: Analysis) -> Section | None:
    rows = analysis.attachments.agreement
    if not rows:
        return None
    tables = [
        _table(scenario, [row for row in rows if row.scenario == scenario])
        for scenario in dict.fromkeys(row.scenario for row in rows)
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
    return Section("agreement", "Agreement of importances", (how, *tables))


def _table(scenario: str, rows: Rows) -> Table:
    def measured(heading: str, key: str, text: Callable[[float], str]) -> Column[Rows]:
        def cell(of_method: Rows) -> Cell:
            values = [getattr(row, key) for row in of_method]
            shown, *bounds = map(text, (mean(values), min(values), max(values)))
            return Cell(shown if {*bounds} == {shown} else f"{shown} [{', '.join(bounds)}]", mean(values))

        return Column(heading, cell)

    return table_of(
        f"agreement-{scenario}",
        f"{scenario.capitalize()}-incremental: cost of an importance, and its agreement with the exact Fisher",
        [[row for row in rows if row.method == method] for method in dict.fromkeys(row.method for row in rows)],
        Column("method", lambda of_method: of_method[0].method),
        Column("cost, epochs", lambda of_method: median(row.epochs for row in of_method), points),
        measured("rank correlation (Spearman)", "spearman", lambda value: points(value, 3)),
        measured("correlation (Pearson)", "pearson", lambda value: points(value, 3)),
        measured("cosine", "cosine", lambda value: points(value, 3)),
        measured("size over exact", "ratio", lambda value: strength(float(f"{value:.2g}"))),
    )
