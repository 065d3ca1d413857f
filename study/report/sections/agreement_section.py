"""Agreement of importances."""

from collections.abc import Callable, Container, Mapping, Sequence
from itertools import pairwise
from math import fsum
from statistics import mean, median

from study.protocol.settings import Scenario
from study.records.importance_agreement import IN_THE_PASS, ImportanceAgreement, exact_methods
from study.report.analysis import Analysis
from study.report.document import Column, Section, Table, mean_with_range, table_of
from study.report.number_formats import count, enumeration, points, two_digits

Rows = Sequence[ImportanceAgreement]


def agreement_section(analysis: Analysis) -> Section | None:
    rows = analysis.attachments.agreement
    if not rows:
        return None
    tables = [
        _table(analysis, scenario, [row for row in rows if row.scenario == scenario])
        for scenario in dict.fromkeys(row.scenario for row in rows)
    ]
    seeds, experiences = (len({getattr(row, key) for row in rows}) for key in ("seed", "experience"))
    machines = ", ".join(dict.fromkeys(f"PyTorch {row.torch} on {row.processor}" for row in rows))
    how = (
        f"One network for each of {count(seeds, 'seed')}, trained without a penalty. After each of {experiences} "
        "experiences every importance is measured on the same network and data, in one thread. Cost: median, in "
        "training epochs on that data. Correlations and cosine with the exact Fisher: mean [least, largest] over seeds "
        "and experiences. Trace: sum of the importance. λ: chosen by the search. Entries that are 0 in "
        f"both are left out. `agreement.csv` has every measurement, by {machines}."
    )
    return Section("agreement", "Agreement of importances", (how, *tables))


def _table(analysis: Analysis, scenario: Scenario, rows: Rows) -> Table:
    def measured(heading: str, key: str, text: Callable[[float], str]) -> Column[Rows]:
        return Column(heading, lambda of_method: mean_with_range([getattr(row, key) for row in of_method], text))

    found = {method: [row for row in rows if row.method == method] for method in analysis.protocol.methods}
    by_method = {method: of_method for method, of_method in found.items() if of_method}
    exact = by_method.get(_exact(analysis, by_method), ())
    products = _products(analysis, scenario, by_method, exact)
    return table_of(
        f"agreement-{scenario}",
        f"{scenario.capitalize()}-incremental: cost of an importance, and its agreement with the exact Fisher",
        by_method.values(),
        Column("method", lambda of_method: of_method[0].method),
        Column("cost, epochs", lambda of_method: median(row.epochs for row in of_method), points),
        measured("rank correlation (Spearman)", "spearman", lambda value: points(value, 3)),
        measured("correlation (Pearson)", "pearson", lambda value: points(value, 3)),
        measured("cosine", "cosine", lambda value: points(value, 3)),
        Column(
            "trace over exact",
            lambda rows: mean_with_range([row.ratio for row in rows], two_digits, _trace_ratio(rows, exact)),
        ),
        Column("λ · trace over exact", lambda of_method: products.get(of_method[0].method), two_digits),
        notes=[*_exact_trace(exact), *_within_a_step(analysis, products)],
    )


def _exact(analysis: Analysis, methods: Container[str]) -> str | None:
    return next((method for method in exact_methods(analysis.protocol) if method in methods), None)


def _exact_trace(exact: Rows) -> list[str]:
    traces = [row.trace for row in exact if row.trace is not None]
    if not traces:
        return []
    shown = mean_with_range(traces, two_digits).text
    return [f"Trace of the exact Fisher: {shown}. Trace over exact: of the sums over seeds and experiences."]


def _trace_ratio(rows: Rows, exact: Rows) -> float:
    """Of summed traces, since Online EWC with γ = 1 adds importances up; the mean of ratios for version 0.1's files."""
    traces = {row.where[:-1]: row.trace for row in exact}
    if any(row.trace is None or traces.get(row.where[:-1]) is None for row in rows):
        return mean(row.ratio for row in rows)
    return fsum(row.trace for row in rows) / fsum(traces[row.where[:-1]] for row in rows)


def _products(
    analysis: Analysis, scenario: Scenario, by_method: Mapping[str, Rows], exact_rows: Rows
) -> dict[str, float]:
    """λ · trace by method, over that of the exact Fisher, of methods that the search chose a λ > 0 for.

    Only for those that differ from the exact one in the Fisher alone.
    """
    chosen = {choice.method: choice for choice in analysis.selection.choices if choice.scenario == scenario}
    exact = chosen.get(_exact(analysis, by_method))
    if exact is None or not exact.strength:
        return {}
    beside_the_pass = exact.best_method.model_dump(exclude=IN_THE_PASS)
    return {
        method: chosen[method].strength / exact.strength * _trace_ratio(rows, exact_rows)
        for method, rows in by_method.items()
        if method in chosen
        and chosen[method].strength
        and chosen[method].best_method.model_dump(exclude=IN_THE_PASS) == beside_the_pass
    }


def _within_a_step(analysis: Analysis, products: Mapping[str, float]) -> list[str]:
    """Whether λ · trace is that of the exact Fisher, up to the largest step between neighbours of the grids."""
    others = {method: product for method, product in products.items() if method != _exact(analysis, products)}
    if not others:
        return []
    grids = (sorted(filter(None, analysis.protocol.tuning.grid[method]["strength"])) for method in products)
    step = max((larger / smaller for grid in grids for smaller, larger in pairwise(grid)), default=1.0)
    beyond = [f"`{method}`" for method, product in others.items() if not 1 / step <= product <= step]
    within = f"{len(others) - len(beyond)} of {count(len(others), 'other variant')}"
    named = f", not for {enumeration(beyond)}" if beyond else ""
    return [f"λ · trace lies within one step of the grid, a factor of {two_digits(step)}, for {within}{named}."]
