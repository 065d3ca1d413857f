"""Verdicts on published numbers, and what limits a comparison."""

from study.report.comparisons import LEVEL, NO_RUN, OTHER_SETTINGS, PublishedRow
from study.statistics import FEWEST_JUDGED

VERDICTS = ("reproduced", "above", "below", "inconclusive", OTHER_SETTINGS, NO_RUN)

MEANING = (
    "`reproduced`: an equivalence test (TOST) shows that our mean lies within the margin of the published one. "
    "`above`, `below`: it does not, and Welch's t-test shows a difference. `inconclusive`: neither, or fewer than "
    f"{FEWEST_JUDGED} seeds of ours. `{OTHER_SETTINGS}`: the number was published for settings that differ from ours, "
    f"so it is not judged. All tests at level {LEVEL}, on the average accuracy over all experiences at the end, in "
    "percent."
)


def limits(row: PublishedRow) -> str:
    """What limits a comparison, separated by semicolons; empty if nothing does."""
    if row.comparison is None:
        return ""
    seeds = row.comparison.ours.n
    found = [row.changes] if row.changes else []
    if seeds < FEWEST_JUDGED:
        found.append("1 seed" if seeds == 1 else f"{seeds} seeds")
    if row.number.spread is None:
        found.append("published without a spread: taken as exact")
    if row.verdict == "inconclusive" and seeds >= FEWEST_JUDGED and not row.comparison.attainable:
        found.append("the published mean is too uncertain for this margin")
    return "; ".join(found)
