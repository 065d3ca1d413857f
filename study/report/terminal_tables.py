"""Tables that commands print."""

from collections.abc import Sequence

from rich.table import Table

from study.campaign.strength_search import Choice
from study.protocol.schema import Protocol
from study.protocol.settings import Method, Scenario, takes_strength
from study.protocol.table import Own
from study.records.run_record import RunRecord
from study.report.document import Column, table_of
from study.report.method_results import MethodResult
from study.report.number_formats import combination, strength
from study.report.rich_tables import to_terminal


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
    columns: tuple[Column[MethodResult], ...] = (
        Column("method", lambda result: result.method),
        Column("λ", lambda result: result.strength, strength),
        Column("seeds", lambda result: len(result.finished)),
        Column("average accuracy %, 95% interval", lambda result: result.accuracy),
        Column("forgetting %, 95% interval", lambda result: result.forgetting),
    )
    return to_terminal(table_of("results", f"{title}, {scenario}-incremental", results, *columns, keep=len(columns)))


def choice_table(title: str, choices: Sequence[Choice]) -> Table:
    """Validation accuracy over the grid, and the best λ."""

    def tried(choice: Choice) -> str:
        accuracies = choice.accuracy.items()
        return "  ".join(f"{combination(choice.options, values)}: {100 * mean:.1f}" for values, mean in accuracies)

    def best(choice: Choice) -> str:
        return combination(choice.options, choice.best) + (" (edge)" if choice.at_edge else "")

    columns: tuple[Column[Choice], ...] = (
        Column("scenario", lambda choice: choice.scenario),
        Column("method", lambda choice: choice.method),
        Column("best λ", best),
        Column("λ: accuracy %", tried),
    )
    caption = f"{title}: the search, average accuracy % on validation data"
    return to_terminal(table_of("search", caption, choices, *columns))


def strength_toml(choices: Sequence[Choice]) -> str:
    """The best λs as lines of a protocol's ``[strength]``."""
    by_method: dict[str, list[str]] = {}
    for choice in choices:
        by_method.setdefault(choice.method, []).append(f"{choice.scenario} = {choice.strength:g}")
    return "\n".join(f"{method} = {{ {', '.join(entries)} }}" for method, entries in by_method.items())


def protocol_table(protocol: Protocol) -> Table:
    """Each method's kind and options, and its λ in each scenario."""

    def options(method: Method) -> str:
        hidden = set() if isinstance(method, Own) else {"kind"}
        return ", ".join(
            f"{key} = {value}" for key, value in method.model_dump(exclude=hidden, exclude_none=True).items()
        )

    def strength_in(scenario: Scenario) -> Column[str]:
        def value(name: str) -> float | str | None:
            return protocol.strength_of(name, scenario) if takes_strength(protocol.methods[name]) else None

        return Column(f"λ, {scenario}", value, strength)

    columns: tuple[Column[str], ...] = (
        Column("method", str),
        Column("options", lambda name: options(protocol.methods[name])),
        *map(strength_in, protocol.scenarios),
    )
    return to_terminal(table_of("methods", "methods", protocol.methods, *columns))
