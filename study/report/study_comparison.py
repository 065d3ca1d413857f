"""Two sets of runs, compared by seed."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Column, Table
from rich.text import Text

from study.errors import StudyError
from study.protocol.settings import Scenario
from study.records.deduplicate import deduplicate
from study.records.run_record import RunRecord
from study.report.comparisons import LEVEL, TOO_FEW_SEEDS, paired_by_seed, pairs_notes, sign_flip_test
from study.report.number_formats import NOTHING, effect_size, enumeration, interval, p_value, points, signed_points
from study.report.plain_tables import add_plain_row, number_columns, plain_table
from study.report.setting_differences import differing, list_differences
from study.run.metrics import average_accuracy
from study.run.specification import Run
from study.statistics import FamilyComparison, family

Side = tuple[str, Sequence[RunRecord], str | None]  # what it is called, its records, the method if it is one


@dataclass(frozen=True)
class OneMethod:
    """The finished runs of one method in one scenario: one of them, and average accuracy in percent by seed."""

    run: Run
    scores: dict[int, float]


@dataclass(frozen=True)
class _Pair:
    """A row of the table."""

    name: str
    a: OneMethod
    b: OneMethod


def comparison_table(a: Side, b: Side) -> Table:
    """The difference of average accuracy, A − B, with interval, tests and effect size.

    Args:
        a, b: name, records and method; without a method, methods of equal names are compared.

    Raises:
        StudyError: no scenario, method and seed in common; runs of several settings of a method; or other data.
    """
    pairs = _pairs(a, b)
    if not pairs:
        raise StudyError(f"{a[0]} and {b[0]} have no scenario, method and seed in common that finished in both")
    found = family([("A", "B", paired_by_seed(pair.a.scores, pair.b.scores)) for pair in pairs], LEVEL)
    table = plain_table(
        f"A = {a[0]}, B = {b[0]}: average accuracy, A − B",
        Column("runs", overflow="fold"),
        *number_columns("seeds", "A %", "B %", "A − B", "95% interval", "p", "p, Holm", "p, Wilcoxon", "effect size"),
        box=box.SIMPLE_HEAD,  # with little between the columns all of them fit into 80 characters
        collapse_padding=True,
        pad_edge=False,
    )
    for pair, comparison in zip(pairs, found, strict=True):
        add_plain_row(table, pair.name, *_cells(pair, comparison))
    table.caption = Text(" ".join(_caption(pairs, found)))
    table.caption_justify = "left"
    return table


def _cells(pair: _Pair, found: FamilyComparison) -> tuple[str, ...]:
    c = found.comparison
    seeds = pair.a.scores.keys() & pair.b.scores.keys()
    return (
        str(c.n),
        *(points(sum(side.scores[seed] for seed in seeds) / c.n) for side in (pair.a, pair.b)),
        signed_points(c.difference),
        interval(c.low, c.high),
        p_value(c.p) if found.reachable else NOTHING,
        _decision(found),
        p_value(c.p_wilcoxon) if found.reachable else NOTHING,
        effect_size(c.effect_size),
    )


def _decision(found: FamilyComparison) -> str:
    if not found.reachable:
        return TOO_FEW_SEEDS
    return p_value(found.p_holm) + ("*" if found.significant else "")


def _caption(pairs: Sequence[_Pair], found: Sequence[FamilyComparison]) -> list[str]:
    return [
        f"Paired by seed; p of the {sign_flip_test(found)}, adjusted by Holm's method over the table,",
        "and p of Wilcoxon's signed-rank test.",
        *pairs_notes(found),
        *_what_differs(pairs),
    ]


def _what_differs(pairs: Sequence[_Pair]) -> list[str]:
    """Settings in which A and B differ, with the rows concerned if not all."""
    rows: dict[str, list[str]] = {}
    for pair in pairs:
        rows.setdefault(list_differences(differing([pair.a.run, pair.b.run])), []).append(pair.name)
    rows.pop("", None)
    return [
        f"A and B differ in {words}{'' if len(names) == len(pairs) else f': {enumeration(names)}'}."
        for words, names in rows.items()
    ]


def _pairs(a: Side, b: Side) -> list[_Pair]:
    """The methods that share a seed."""
    a_records, b_records = by_method(a[1]), by_method(b[1])
    pairs = []
    for (scenario, method), of_a in a_records.items():
        if a[2] is not None and method != a[2]:
            continue
        other = b[2] or a[2] or method
        if a[2] is None and b[2] is not None and method != b[2]:
            continue
        of_b = b_records.get((scenario, other), [])
        if not {record.run.seed for record in of_a} & {record.run.seed for record in of_b}:
            continue
        name = f"{scenario}, {method}" if method == other else f"{scenario}, {method} − {other}"
        pair = _Pair(name, of_one_setting(a[0], of_a), of_one_setting(b[0], of_b))
        other_data = {
            key: values for key, values in differing([pair.a.run, pair.b.run]).items() if key.startswith("benchmark")
        }
        if other_data:
            raise StudyError(
                f"{a[0]} and {b[0]} cannot be compared: their data differs in {list_differences(other_data)}"
            )
        pairs.append(pair)
    return pairs


def by_method(records: Sequence[RunRecord]) -> dict[tuple[Scenario, str], list[RunRecord]]:
    found: dict[tuple[Scenario, str], list[RunRecord]] = {}
    for record in deduplicate(records, lambda record: (record.run.label, record.run.content)).values():
        if record.finished:
            found.setdefault((record.run.scenario, record.run.label), []).append(record)
    return found


def of_one_setting(side: str, records: Sequence[RunRecord]) -> OneMethod:
    """The runs of a method.

    Raises:
        StudyError: their settings differ.
    """
    first = records[0].run
    several = list_differences(differing([record.run for record in records]))
    if several:
        raise StudyError(
            f"{side} has {first.scenario}-incremental runs of {first.label!r} that differ in {several}; a comparison "
            "needs them in folders of their own: `clreg-study report` with the --set of the runs and an --out takes "
            "those of one setting out, as does --out of `clreg-study run`"
        )
    return OneMethod(first, {record.run.seed: 100 * average_accuracy(record.accuracy) for record in records})
