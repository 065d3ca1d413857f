"""Two sets of runs against each other, paired by seed."""

from collections.abc import Sequence

from rich.table import Table

from study.errors import StudyError
from study.metrics import average_accuracy
from study.records import RunRecord
from study.statistics import compare_paired, holm

Side = tuple[str, Sequence[RunRecord], str | None]  # what it is called, its records, the method if it is one
Scores = dict[tuple[str, str], dict[int, float]]  # by scenario and method, and by seed: average accuracy in percent


def comparison_table(a: Side, b: Side) -> Table:
    """The difference of average accuracy, A - B, with its interval, tests and effect size.

    Args:
        a, b: each a name, its records, and a method; where one of them names no method, every method of the one is
            compared with that of the same name of the other.

    Raises:
        StudyError: there is nothing to compare: no method and seed that both have in a common scenario.
    """
    pairs = _pairs(a, b)
    if not pairs:
        raise StudyError(f"{a[0]} and {b[0]} have no scenario, method and seed in common that finished in both")
    compared = [compare_paired(a_scores, b_scores) for _, a_scores, b_scores in pairs]
    adjusted = holm([comparison.p for comparison in compared])
    table = Table(title=f"A = {a[0]}, B = {b[0]}: average accuracy, A − B", title_justify="left")
    table.add_column("runs")
    for heading in ("seeds", "A %", "B %", "difference", "95% interval", "p", "p (Holm)", "effect size"):
        table.add_column(heading, justify="right")
    for (label, a_scores, b_scores), comparison, p_holm in zip(pairs, compared, adjusted, strict=True):
        one = comparison.n == 1
        table.add_row(
            label,
            str(comparison.n),
            f"{sum(a_scores) / len(a_scores):.2f}",
            f"{sum(b_scores) / len(b_scores):.2f}",
            f"{comparison.difference:+.2f}",
            "–" if one else f"{comparison.low:+.2f} … {comparison.high:+.2f}",
            "–" if one else f"{comparison.p:.4f}",
            "–" if one else f"{p_holm:.4f}",
            "–" if one else f"{comparison.effect_size:.2f}",
        )
    fewest = max(comparison.p_smallest for comparison in compared)
    table.caption = (
        f"exact sign-flip tests, paired by seed; the smallest p that so many seeds can reach is {fewest:.2g}"
    )
    return table


def _pairs(a: Side, b: Side) -> list[tuple[str, list[float], list[float]]]:
    """A label, and the scores of A and of B on the seeds that both have."""
    a_scores, b_scores = _scores(a[1]), _scores(b[1])
    pairs = []
    for (scenario, method), of_a in a_scores.items():
        if a[2] is not None and method != a[2]:
            continue
        other = b[2] or a[2] or method
        if a[2] is None and b[2] is not None and method != b[2]:
            continue
        of_b = b_scores.get((scenario, other), {})
        seeds = sorted(of_a.keys() & of_b.keys())
        if seeds:
            label = f"{scenario}, {method}" if method == other else f"{scenario}, {method} − {other}"
            pairs.append((label, [of_a[seed] for seed in seeds], [of_b[seed] for seed in seeds]))
    return pairs


def _scores(records: Sequence[RunRecord]) -> Scores:
    scores: Scores = {}
    for record in sorted(records, key=lambda record: record.ended):  # of several of one seed the latest counts
        if record.finished:
            by_seed = scores.setdefault((record.run.scenario, record.run.label), {})
            by_seed[record.run.seed] = 100 * average_accuracy(record.accuracy)
    return scores
