"""Agreement of importances."""

from collections.abc import Callable, Sequence
from statistics import mean, median

from study.records.importance_agreement import ImportanceAgreement
from study.report.analysis import Analysis
from study.report.document import Cell, Column, Paragraph, Section, Table, number, table_of, word
from study.report.number_formats import count, strength

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
    return Section("agreement", "Agreement of importances", (Paragraph(how), *tables))


def _table(scenario: str, rows: Rows) -> Table:
    def measured(heading: str, key: str) -> Column[Rows]:
        return Column(heading, lambda of_method: _range([getattr(row, key) for row in of_method], _three))

    return table_of(
        f"agreement-{scenario}",
        f"{scenario.capitalize()}-incremental: cost of an importance, and its agreement with the exact Fisher",
        [[row for row in rows if row.method == method] for method in dict.fromkeys(row.method for row in rows)],
        Column("method", lambda of_method: word(of_method[0].method), "name"),
        Column("cost, epochs", lambda of_method: number(median(row.epochs for row in of_method), "{:.2f}".format)),
        measured("rank correlation (Spearman)", "spearman"),
        measured("correlation (Pearson)", "pearson"),
        measured("cosine", "cosine"),
        Column("size over exact", lambda of_method: _range([row.ratio for row in of_method], _two_digits)),
    )


def _three(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _two_digits(value: float) -> str:
    return strength(float(f"{value:.2g}"))


def _range(values: Sequence[float], text: Callable[[float], str]) -> Cell:
    shown, bounds = text(mean(values)), (text(min(values)), text(max(values)))
    return Cell(shown if bounds == (shown, shown) else f"{shown} [{bounds[0]}, {bounds[1]}]", mean(values))
