"""Tables for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from study.metrics import average_accuracy, forgetting
from study.protocol import Protocol, Scenario, takes_strength
from study.records import RunRecord
from study.statistics import Summary, summarize
from study.tuning import Choice


@dataclass(frozen=True)
class MethodResult:
    """One row of a scenario's table.

    Attributes:
        method: its name in the protocol.
        strength: λ; None for a method that has none.
        accuracy: average accuracy over the seeds, in [0, 1].
        forgetting: average forgetting over the seeds; None for joint training, which learns everything at
        once.
    """

    method: str
    strength: float | None
    accuracy: Summary
    forgetting: Summary | None


def method_results(records: Sequence[RunRecord], scenario: Scenario) -> list[MethodResult]:
    """The results in one scenario, a method a row, in the order of the records; failed runs are left out."""
    by_method: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.finished and record.run.scenario == scenario:
            by_method.setdefault(record.run.label, []).append(record)
    results = []
    for method, finished in by_method.items():
        matrices = [record.accuracy for record in finished]
        sequential = all(len(matrix) > 1 for matrix in matrices)
        results.append(
            MethodResult(
                method,
                finished[0].run.strength,
                summarize([average_accuracy(matrix) for matrix in matrices]),
                summarize([forgetting(matrix) for matrix in matrices]) if sequential else None,
            )
        )
    return results


def scenario_table(title: str, scenario: Scenario, results: Sequence[MethodResult]) -> Table:
    """Average accuracy and forgetting of each method, in percent, with 95% intervals."""
    table = Table(title=f"{title}, {scenario}-incremental", title_justify="left")
    table.add_column("method")
    for heading in ("λ", "seeds", "average accuracy %", "95% interval", "forgetting %", "95% interval"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            result.method,
            strength_text(result.strength),
            str(result.accuracy.n),
            *_percent(result.accuracy),
            *(_percent(result.forgetting) if result.forgetting else ("–", "–")),
        )
    return table


def strength_text(strength: float | None) -> str:
    """λ as short as it can be said."""
    return "–" if strength is None else f"{strength:g}"


def choice_table(title: str, choices: Sequence[Choice]) -> Table:
    """What the search for λ found: validation accuracy over the grid, and the best."""
    table = Table(title=f"{title}: the search for λ, average accuracy % on validation data", title_justify="left")
    table.add_column("scenario")
    table.add_column("method")
    table.add_column("best λ", justify="right")
    table.add_column("λ: accuracy %")
    for choice in choices:
        grid = "  ".join(f"{strength:g}: {100 * mean:.1f}" for strength, mean in choice.accuracy.items())
        best = f"{choice.best:g}" + (" (edge)" if choice.at_edge else "")
        table.add_row(choice.scenario, choice.method, best, grid)
    return table


def strength_toml(choices: Sequence[Choice]) -> str:
    """The best λ of each method as the lines of a protocol file's ``[strength]``."""
    by_method: dict[str, list[str]] = {}
    for choice in choices:
        by_method.setdefault(choice.method, []).append(f"{choice.scenario} = {choice.best:g}")
    return "\n".join(f"{method} = {{ {', '.join(entries)} }}" for method, entries in by_method.items())


def protocol_table(protocol: Protocol) -> Table:
    """Each method's kind and options, and its λ in each scenario."""
    table = Table(title="methods", title_justify="left")
    table.add_column("method")
    table.add_column("options")
    for scenario in protocol.scenarios:
        table.add_column(f"λ, {scenario}", justify="right")
    for name, method in protocol.methods.items():
        options = method.model_dump(exclude={"kind"}, exclude_none=True)
        strengths = [
            strength_text(protocol.strength_of(name, scenario)) if takes_strength(method) else "–"
            for scenario in protocol.scenarios
        ]
        table.add_row(name, ", ".join(f"{key} = {value}" for key, value in options.items()), *strengths)
    return table


def _percent(summary: Summary) -> tuple[str, str]:
    if summary.n == 1:
        return f"{100 * summary.mean:.1f}", "–"
    return (f"{100 * summary.mean:.1f}", f"{100 * summary.low:.1f} – {100 * summary.high:.1f}")
