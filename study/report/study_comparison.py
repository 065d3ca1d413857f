"""Two sets of runs, compared by seed."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table

from study.errors import StudyError
from study.protocol.settings import Scenario
from study.records.deduplicate import deduplicate
from study.records.run_record import RunRecord
from study.report.comparisons import LEVEL, TESTS, paired_by_seed, pairs_notes, sign_flip_test
from study.report.document import Column, table_of
from study.report.method_results import MethodResult
from study.report.number_formats import enumeration, points
from study.report.rich_tables import to_terminal
from study.report.setting_differences import differing, list_differences
from study.statistics import FamilyComparison, family

Side = tuple[str, Sequence[RunRecord], str | None]  # what it is called, its records, the method if it is one


def comparison_table(a: Side, b: Side) -> Table:
    """The difference of average accuracy, A − B, with interval, tests and effect size.

    Args:
        a, b: name, records and method; without a method, methods of equal names are compared.

    Raises:
        StudyError: no scenario, method and seed in common; runs of several settings of a method; or other data.
    """
    pairs = list(_pairs(a, b))
    if not pairs:
        raise StudyError(f"{a[0]} and {b[0]} have no scenario, method and seed in common that finished in both")
    found = family([(name, "", paired_by_seed(one.scores, other.scores)) for name, one, other in pairs], LEVEL)
    columns: tuple[Column[FamilyComparison], ...] = (
        Column("runs", lambda pair: pair.a),
        Column("seeds", lambda pair: pair.comparison.n),
        Column("A %", lambda pair: pair.comparison.mean_a, points),
        Column("B %", lambda pair: pair.comparison.mean_b, points),
        *TESTS,
    )
    notes = [
        f"Paired by seed. p: {sign_flip_test(found)}; p (Holm), over the table, decides.",
        *pairs_notes(found),
        *_what_differs(pairs),
    ]
    caption = f"A = {a[0]}, B = {b[0]}: average accuracy, A − B"
    # with little between the columns all of them fit into 80 characters
    table = table_of("comparison", caption, found, *columns, notes=notes)
    return to_terminal(table, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)


def _what_differs(pairs: Sequence[tuple[str, MethodResult, MethodResult]]) -> list[str]:
    """Settings in which A and B differ, with the rows concerned if not all."""
    rows: dict[str, list[str]] = {}
    for name, one, other in pairs:
        rows.setdefault(list_differences(differing([one.records[0].run, other.records[0].run])), []).append(name)
    rows.pop("", None)
    return [
        f"A and B differ in {words}{'' if len(names) == len(pairs) else f': {enumeration(names)}'}."
        for words, names in rows.items()
    ]


def _pairs(a: Side, b: Side) -> Iterator[tuple[str, MethodResult, MethodResult]]:
    """The methods that share a seed."""
    of_b = by_method(b[1])
    for (scenario, method), a_records in by_method(a[1]).items():
        other = b[2] or a[2] or method
        b_records = of_b.get((scenario, other), [])
        seeds = {record.run.seed for record in a_records} & {record.run.seed for record in b_records}
        if method != (a[2] or b[2] or method) or not seeds:
            continue
        one, two = of_one_setting(a[0], a_records), of_one_setting(b[0], b_records)
        differences = differing([one.records[0].run, two.records[0].run])
        other_data = {key: values for key, values in differences.items() if key.startswith("benchmark")}
        if other_data:
            problem = f"{a[0]} and {b[0]} cannot be compared: their data"
            if list(other_data) == ["benchmark.source_hash"]:
                file = one.records[0].run.benchmark.file
                raise StudyError(
                    f"{problem} comes from two versions of {file} (hashes {' and '.join(other_data.popitem()[1])}); "
                    "a benchmark in a file of its own keeps its version when a method is edited"
                )
            raise StudyError(f"{problem} differs in {list_differences(other_data)}")
        yield f"{scenario}, {method}" if method == other else f"{scenario}, {method} − {other}", one, two


def by_method(records: Sequence[RunRecord]) -> dict[tuple[Scenario, str], list[RunRecord]]:
    found: dict[tuple[Scenario, str], list[RunRecord]] = {}
    for record in deduplicate(records, lambda record: (record.run.label, record.run.content)).values():
        if record.finished:
            found.setdefault((record.run.scenario, record.run.label), []).append(record)
    return found


def of_one_setting(side: str, records: Sequence[RunRecord]) -> MethodResult:
    """The finished runs of a method in a scenario; a StudyError if their settings differ."""
    first = records[0].run
    several = list_differences(differing([record.run for record in records]))
    if several:
        raise StudyError(
            f"{side} has {first.scenario}-incremental runs of {first.label!r} that differ in {several}; a comparison "
            "needs them in folders of their own: `clreg-study report` with the --set of the runs and an --out takes "
            "those of one setting out, as does --out of `clreg-study run`"
        )
    return MethodResult(first.scenario, first.label, first.method, first.strength, tuple(records))
