"""Notes on comparisons of methods, for reports and the terminal."""

from collections.abc import Sequence

from study.report.comparisons import LEVEL
from study.report.number_formats import count, p_equals
from study.statistics import FamilyComparison, fewest_pairs

TOO_FEW_SEEDS = "too few seeds"
"""Stands in place of a finding that so few seeds cannot give."""

EXACT_UP_TO = 16
"""Seeds with which a sign-flip test tries every flip: see :class:`study.statistics.PairedComparison`."""


def sign_flip_test(pairs: Sequence[FamilyComparison]) -> str:
    """The name of the test, "exact" only if the seeds are few enough for all flips."""
    exact = [pair.comparison.n <= EXACT_UP_TO for pair in pairs]
    if all(exact):
        return "exact sign-flip permutation test"
    return f"sign-flip permutation test{f' (exact up to {EXACT_UP_TO} seeds)' if any(exact) else ''}"


def pairs_notes(pairs: Sequence[FamilyComparison]) -> list[str]:
    """Notes on the star and on how many seeds a test needs."""
    notes = ["*: significant after Holm's correction."] if any(pair.significant for pair in pairs) else []
    smallest = {pair.comparison.n: pair.comparison.p_smallest for pair in pairs if not pair.reachable}
    for seeds, p in sorted(smallest.items()):
        adjusted = min(1.0, p * len(pairs))
        notes.append(
            f"Too few seeds ({seeds}): smallest reachable {p_equals(p)}, after Holm's correction over "
            f"{count(len(pairs), 'comparison')} {p_equals(adjusted)}; {fewest_pairs(LEVEL / len(pairs))} seeds could "
            "reach 0.05."
        )
    return notes
