"""Tables for the terminal."""

from collections.abc import Sequence

from rich.table import Column, Table

from study.campaign.strength_search import Choice
from study.protocol.schema import Protocol
from study.protocol.settings import Scenario, takes_strength
from study.records.run_record import RunRecord
from study.report.method_results import MethodResult
from study.report.number_formats import NOTHING, combination, interval, points, strength
from study.report.plain_tables import add_plain_row, number_columns, plain_table
from study.statistics import Summary


def method_results(records: Sequence[RunRecord], scenario: Scenario) -> list[MethodResult]:
    """Results in one scenario, in the order of the records."""
    by_method: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.run.scenario == scenario:
            by_method.setdefault(record.run.label, []).append(record)
    return [
        MethodResult(scenario, method, of_method[0].run.method, of_method[0].run.strength, tuple(of_method))
        for method, of_method in by_method.items()
    ]


def scenario_table(title: str, scenario: Scenario, results: Sequence[MethodResult]) -> Table:
    """Average accuracy and forgetting of each method, in percent, with 95% intervals."""
    table = plain_table(
        f"{title}, {scenario}-incremental",
        Column("method", min_width=max((len(result.method) for result in results), default=0)),
        *number_columns("λ", "seeds", "average accuracy %", "95% interval", "forgetting %", "95% interval"),
    )
    for result in results:
        add_plain_row(
            table,
            result.method,
            strength(result.strength),
            str(len(result.finished)),
            *_mean_and_interval(result.accuracy),
            *_mean_and_interval(result.forgetting),
        )
    return table


def choice_table(title: str, choices: Sequence[Choice]) -> Table:
    """Validation accuracy over the grid, and the best λ."""
    table = plain_table(
        f"{title}: the search, average accuracy % on validation data",
        "scenario",
        "method",
        *number_columns("best λ"),
        "λ: accuracy %",
    )
    for choice in choices:
        tried = "  ".join(
            f"{combination(choice.options, values)}: {100 * mean:.1f}" for values, mean in choice.accuracy.items()
        )
        best = combination(choice.options, choice.best) + (" (edge)" if choice.at_edge else "")
        add_plain_row(table, choice.scenario, choice.method, best, tried)
    return table


def strength_toml(choices: Sequence[Choice]) -> str:
    """The best λs as lines of a protocol's ``[strength]``."""
    by_method: dict[str, list[str]] = {}
    for choice in choices:
        by_method.setdefault(choice.method, []).append(f"{choice.scenario} = {choice.strength:g}")
    return "\n".join(f"{method} = {{ {', '.join(entries)} }}" for method, entries in by_method.items())


def protocol_table(protocol: Protocol) -> Table:
    """Each method's kind and options, and its λ in each scenario."""
    table = plain_table(
        "methods", "method", "options", *number_columns(*(f"λ, {scenario}" for scenario in protocol.scenarios))
    )
    for name, method in protocol.methods.items():
        options = method.model_dump(exclude={"kind"}, exclude_none=True)
        strengths = [
            _strength(protocol.strength_of(name, scenario)) if takes_strength(method) else NOTHING
            for scenario in protocol.scenarios
        ]
        add_plain_row(table, name, ", ".join(f"{key} = {value}" for key, value in options.items()), *strengths)
    return table


def _strength(value: float | str | None) -> str:
    return value if isinstance(value, str) else strength(value)


def _mean_and_interval(summary: Summary | None) -> tuple[str, str]:
    return (NOTHING, NOTHING) if summary is None else (points(summary.mean), interval(summary.low, summary.high))
