"""What the tests and intervals promise, counted in simulations: coverage, and how often a true null is rejected."""

import itertools
import math

import numpy as np
import pytest

from study.statistics import compare_paired, compare_with_published, family, friedman, summarize

pytestmark = pytest.mark.slow


def _tolerance(rate: float, repeats: int) -> float:
    """Four standard errors of a rate that was counted in so many repeats."""
    return 4 * math.sqrt(rate * (1 - rate) / repeats)


@pytest.mark.parametrize("n", [2, 5, 19])
def test_students_interval_covers_at_its_level(n: int):
    rng, repeats = np.random.default_rng(n), 10_000
    covered = np.mean([s.low <= 3 <= s.high for s in (summarize(rng.normal(3, 2, n), 0.9) for _ in range(repeats))])
    assert covered == pytest.approx(0.9, abs=_tolerance(0.9, repeats))


@pytest.mark.parametrize("n", [20, 60])
def test_the_bootstrap_interval_covers_nearly_at_its_level(n: int):
    rng, repeats = np.random.default_rng(n), 1500
    covered = np.mean([s.low <= 3 <= s.high for s in (summarize(rng.normal(3, 2, n)) for _ in range(repeats))])
    # the bootstrap knows neither n − 1 nor Student's t: its interval is that of the normal distribution, shortened
    expected = 0.95 - 0.5 / n
    assert covered == pytest.approx(expected, abs=0.006 + _tolerance(expected, repeats))


@pytest.mark.parametrize("n", [6, 8])
def test_the_sign_flip_test_rejects_a_true_null_exactly_as_often_as_its_steps_allow(n: int):
    rng, repeats = np.random.default_rng(n), 4000
    scores = rng.normal(size=(repeats, 2, n)) + rng.normal(0, 5, (repeats, 1, n))  # seeds differ, methods do not
    p = np.array([compare_paired(a, b).p for a, b in scores])
    for level in (0.05, 0.25, 0.5):
        exact = math.floor(level * 2**n / 2) / (2**n / 2)
        assert np.mean(p <= level) == pytest.approx(exact, abs=_tolerance(exact, repeats)), f"at {level}"


def test_holm_keeps_the_level_of_the_family():
    """With some nulls false, where Holm's steps reject more than Bonferroni's, and with all true."""
    rng, repeats, n = np.random.default_rng(0), 500, 9
    for shift in (0.0, 10.0):
        any_false, any_unadjusted = 0, 0
        for _ in range(repeats):
            scores = dict(zip("abcd", rng.normal(size=(4, n)), strict=True))
            scores["d"] = scores["d"] + shift
            pairs = [(a, b, compare_paired(scores[a], scores[b])) for a, b in itertools.combinations(scores, 2)]
            nulls = [c for c in family(pairs) if shift == 0 or "d" not in (c.a, c.b)]
            any_false += any(c.significant for c in nulls)
            any_unadjusted += any(c.comparison.p <= 0.05 for c in nulls)
        assert any_false / repeats <= 0.05 + _tolerance(0.05, repeats)
        assert any_unadjusted / repeats > 0.05 + _tolerance(0.05, repeats), (
            "without a correction the family's level would be exceeded"
        )
        assert any_false > 0.01 * repeats, "nothing is ever rejected, which keeps any level"


def _published(rng: np.random.Generator, mean: float, sd: float, n: int) -> tuple[float, float, str, int]:
    x = rng.normal(mean, sd, n)
    return float(x.mean()), float(x.std(ddof=1)), "sd", n


@pytest.mark.parametrize(("our_sd", "their_sd"), [(1.0, 1.0), (2.0, 0.5), (0.5, 2.0)])
def test_welch_rejects_a_true_null_at_its_level_whatever_the_spreads(our_sd: float, their_sd: float):
    rng, repeats = np.random.default_rng(0), 6000
    found = [
        compare_with_published(rng.normal(90, our_sd, 8), *_published(rng, 90, their_sd, 12), margin=1.5)
        for _ in range(repeats)
    ]
    rejected = np.mean([f.p < 0.05 for f in found])
    assert rejected == pytest.approx(0.05, abs=0.004 + _tolerance(0.05, repeats))  # Welch's df are an approximation
    covered = np.mean([f.low <= 0 <= f.high for f in found])
    assert covered == pytest.approx(0.95, abs=0.004 + _tolerance(0.05, repeats))


def test_two_samples_are_not_judged_since_welch_would_reject_too_often():
    rng, repeats = np.random.default_rng(2), 6000
    found = [
        compare_with_published(rng.normal(90, 1, 2), *_published(rng, 90, 1, 20), margin=5.0) for _ in range(repeats)
    ]
    assert {f.verdict for f in found} == {"inconclusive"}
    assert np.mean([f.p < 0.05 for f in found]) == pytest.approx(0.12, abs=_tolerance(0.12, repeats))
    judged = compare_with_published(rng.normal(90, 1, 3), *_published(rng, 90, 1, 20), margin=5.0)
    assert judged.verdict == "reproduced"


@pytest.mark.parametrize("side", [1, -1])
def test_a_difference_of_the_margin_is_called_equivalent_at_the_level(side: int):
    rng, repeats, margin = np.random.default_rng(1), 6000, 2.0
    passed = np.mean(
        [
            compare_with_published(rng.normal(90 + side * margin, 1, 8), *_published(rng, 90, 0.5, 12), margin).verdict
            == "reproduced"
            for _ in range(repeats)
        ]
    )
    assert passed == pytest.approx(0.05, abs=0.004 + _tolerance(0.05, repeats))


def test_friedman_rejects_a_true_null_at_its_level():
    rng, repeats = np.random.default_rng(2), 1500
    found = [friedman(rng.normal(size=(12, 4))) for _ in range(repeats)]
    assert np.mean([f.p_f <= 0.05 for f in found]) == pytest.approx(0.05, abs=0.01 + _tolerance(0.05, repeats))
    apart = np.mean([np.ptp(f.average_ranks) >= f.critical_difference for f in found])
    assert apart == pytest.approx(0.05, abs=0.015 + _tolerance(0.05, repeats))
    split = np.mean([f.groups != (tuple(np.argsort(f.average_ranks, kind="stable").tolist()),) for f in found])
    assert split == apart
