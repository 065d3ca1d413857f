"""What the verdicts on published numbers mean, why a number has its own, and how many have which: in words, once."""

from collections import Counter
from collections.abc import Iterator, Sequence

from study.report.comparisons import LEVEL, NO_RUN, OTHER_SETTINGS, PublishedRow
from study.report.number_formats import NOTHING, count, enumeration, interval, margin_points, points
from study.statistics import FEWEST_JUDGED

MEANING = (
    "`reproduced`: an equivalence test (two one-sided t-tests, TOST) shows that ours lies within the margin of the "
    "published mean. `above`, `below`: it does not, and Welch's t-test shows a difference. `inconclusive`: neither, "
    f"or fewer than {FEWEST_JUDGED} seeds of ours. "
    f"`{OTHER_SETTINGS}`: the number belongs to others than ours, and is not judged. All tests at the {LEVEL} level; "
    "average accuracy over all experiences at the end, in percent."
)
_JUDGED = {
    "reproduced": "reproduced",
    "above": "exceeded (above)",
    "below": "not reached (below)",
    "inconclusive": "inconclusive",
}
_NOT_TRIED = {NO_RUN: "without a finished run of ours", OTHER_SETTINGS: "not judged, since our settings are others"}


def limits(row: PublishedRow) -> str:
    """What a comparison can say no more than; empty where nothing limits it."""
    if row.comparison is None:
        return ""
    found = [row.changes] if row.changes else []
    if row.comparison.ours.n == 1:
        found.append("a single run of ours has no spread: nothing can be tested")
    elif row.comparison.ours.n < FEWEST_JUDGED:
        found.append(f"{row.comparison.ours.n} runs of ours say too little of their spread to be judged")
    if row.number.spread is None:
        found.append("the number was published without a spread: taken as exact")
    return "; ".join(found)


def explanation(row: PublishedRow, why: str = "") -> str:
    """Why a number has its verdict, in one line.

    Args:
        row: the number.
        why: what people say to it; then that is the answer.
    """
    comparison = row.comparison
    if why:
        return why
    if comparison is None:
        return "not run yet"
    if row.changes:
        return f"our settings are others: {row.changes}"
    margin = f"the margin of ±{margin_points(comparison.margin)}"
    if comparison.verdict == "reproduced":
        return f"within {margin}"
    if comparison.verdict != "inconclusive":
        return "not explained yet"
    limited = limits(row)
    if comparison.ours.n < FEWEST_JUDGED:
        return limited
    bounds = interval(comparison.low, comparison.high)
    known = "" if bounds == NOTHING else f", 95% interval {bounds}"
    seeds = count(comparison.ours.n, "seed")
    if comparison.attainable:
        uncertain = f"{seeds} leave the difference too uncertain for {margin}{known}"
    else:
        uncertain = (
            f"{seeds} leave open whether ours differs{known}; none of ours can show that it does not, since the "
            f"published mean is itself too uncertain for {margin}"
        )
    return f"{limited}; {uncertain}" if limited else uncertain


def tally(rows: Sequence[PublishedRow]) -> str:
    """How many numbers were tried, with how many of which verdict; and how many were not, and why.

    A number that several rows have (see :attr:`PublishedRow.number_key`) is one number, and each row a comparison with
    it that has a verdict of its own.

    Args:
        rows: at least one.
    """
    tried = [row for row in rows if row.verdict in _JUDGED]
    counted = {row.number_key for row in tried}
    parts = [_of_those_tried(tried, len(counted))] if tried else []
    for verdict, words in _NOT_TRIED.items():
        others = {row.number_key for row in rows if row.verdict == verdict} - counted
        counted |= others
        parts += [f"{len(others)} {words}"] if others else []
    return f"{'; '.join(parts)}."


def _of_those_tried(tried: Sequence[PublishedRow], numbers: int) -> str:
    verdicts = Counter(row.verdict for row in tried)
    several = f" in {len(tried)} comparisons" if numbers < len(tried) else ""
    by = "by comparison " if several else ""
    fewer = sum(row.incomplete for row in tried)
    so_far = f", {'all' if fewer == len(tried) else fewer} of them by fewer seeds than the protocol's" if fewer else ""
    return f"{numbers} tried{several}{so_far}: {by}" + enumeration(
        f"{verdicts[verdict]} {words}" for verdict, words in _JUDGED.items() if verdicts[verdict]
    )


def tried_several_times(rows: Sequence[tuple[str, PublishedRow]]) -> Iterator[str]:
    """A sentence on each number that several rows have.

    Args:
        rows: each with the report that it stands in; empty where that is clear.
    """
    same: dict[tuple[object, ...], list[tuple[str, PublishedRow]]] = {}
    for report, row in rows:
        same.setdefault(row.number_key, []).append((report, row))
    for found in same.values():
        if len(found) > 1:
            row = found[0][1]
            beside = enumeration(f"`{other.method}`{f' in {report}' if report else ''}" for report, other in found)
            number = f"{row.scenario.capitalize()}-incremental {points(row.number.mean)} ({row.table.source})"
            yield f"{number} is one number, compared with {beside}, and counts once."
