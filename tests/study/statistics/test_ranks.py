"""Several methods over several benchmarks."""

import math

import numpy as np
import pytest
from scipy import stats

from study.statistics import friedman

# Demšar 2006, table 6: the AUC of C4.5, C4.5+m, C4.5+cf and C4.5+m+cf on 14 data sets. On the 13th the last two
# are printed as equal, but ranked 2 and 3: by digits that are not printed
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.975 + 1e-4, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)


def test_ranks_and_critical_difference_of_demsar():
    result = friedman(DEMSAR)
    assert result.average_ranks == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=5e-4)
    assert result.critical_difference == pytest.approx(1.25, abs=5e-3)
    assert friedman(DEMSAR, alpha=0.1).critical_difference == pytest.approx(1.12, abs=5e-3)


def test_statistics_of_demsar_but_for_the_ties_that_he_leaves_uncorrected():
    result = friedman(DEMSAR)
    n, k = DEMSAR.shape
    ranks = np.array(result.average_ranks)
    uncorrected = 12 * n / (k * (k + 1)) * (np.sum(ranks**2) - k * (k + 1) ** 2 / 4)
    assert uncorrected == pytest.approx(9.28, abs=5e-3)
    assert (n - 1) * uncorrected / (n * (k - 1) - uncorrected) == pytest.approx(3.69, abs=5e-3)
    # three rows with a pair of ties each, and one row with four: Σ (t³ − t) = 3 · 6 + 60
    assert result.chi2 == pytest.approx(uncorrected / (1 - (3 * 6 + 60) / (n * (k**3 - k))))


def test_demsar_finds_two_groups_at_a_level_of_one_tenth_and_one_below():
    c45, m, cf, m_cf = range(4)
    assert friedman(DEMSAR, alpha=0.1).groups == ((m_cf, m, cf), (cf, c45))
    assert friedman(DEMSAR, alpha=0.05).groups == ((m_cf, m, cf, c45),)


@pytest.mark.parametrize(("k", "q"), [(3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_values_of_demsars_table_5(k: int, q: float):
    scores = np.random.default_rng(0).normal(size=(12, k))
    assert friedman(scores).critical_difference == pytest.approx(q * math.sqrt(k * (k + 1) / 6 / 12), abs=1e-3)


@pytest.mark.parametrize("levels", [3, 1000])
def test_f_is_that_of_an_analysis_of_variance_of_the_ranks(levels: int):
    """With ties, too (Conover 1999): between methods over what is left within benchmarks."""
    scores = np.random.default_rng(1).integers(0, levels, (9, 4))
    result = friedman(scores)
    ranks = stats.rankdata(-scores, axis=1)
    between = 9 * np.sum((ranks.mean(axis=0) - 2.5) ** 2)
    residual = np.sum((ranks - 2.5) ** 2) - between
    assert result.f == pytest.approx((between / 3) / (residual / (3 * 8)))
    assert result.p_f == pytest.approx(stats.f.sf(result.f, 3, 24))
    assert result.p == pytest.approx(stats.chi2.sf(result.chi2, 3))


def test_the_highest_score_has_rank_one_and_equal_scores_share_theirs():
    result = friedman([[0.9, 0.1, 0.5], [0.8, 0.4, 0.4]])
    assert result.average_ranks == (1, 2.75, 2.25)


def test_rounding_breaks_no_tie():
    tied = friedman([[0.3, 0.3, 0.1], [0.3, 0.5, 0.1]])
    assert friedman([[0.1 + 0.2, 0.3, 0.1], [0.3, 0.5, 0.1]]) == tied
    assert friedman([[0.3, 0.1 + 0.2, 0.1], [0.3, 0.5, 0.1]]) == tied


def test_ranks_that_differ_by_the_critical_difference_are_told_apart_and_groups_overlap():
    n, critical = 30, 0.604  # of 3 methods: 2.343 √(12 / (6 · 30)) = 0.605
    scores = np.array([[3, 2, 1]] * 18 + [[2, 3, 1]] * 6 + [[3, 1, 2]] * 3 + [[1, 2, 3]] * 3)
    result = friedman(scores)
    assert result.critical_difference == pytest.approx(critical, abs=2e-3)
    assert len(scores) == n
    ranks = result.average_ranks
    groups = [set(group) for group in result.groups]
    together = {(i, j) for i in range(3) for j in range(i) if any({i, j} <= group for group in groups)}
    assert together == {(i, j) for i in range(3) for j in range(i) if abs(ranks[i] - ranks[j]) < critical}


def test_methods_that_all_differ_form_no_group():
    assert friedman(np.tile([3.0, 2.0, 1.0], (20, 1))).groups == ()


def test_groups_are_maximal_and_overlap():
    # ranks 1.4, 1.6, 3.4 and 3.6 with a critical difference of 2.1: 1.4 | 3.6 only are too far apart
    scores = np.array([[4, 3, 2, 1]] * 3 + [[3, 4, 1, 2]] * 2)
    result = friedman(scores)
    assert result.average_ranks == pytest.approx((1.4, 1.6, 3.4, 3.6))
    assert 2 < result.critical_difference < 2.2
    assert result.groups == ((0, 1, 2), (1, 2, 3))


@pytest.mark.parametrize(("row", "rankings"), [([3.0, 2.0, 1.0], 6), ([2.0, 2.0, 1.0], 3), ([4.0, 3.0, 2.0, 1.0], 24)])
@pytest.mark.parametrize("n", [2, 4])
def test_where_all_benchmarks_agree_p_is_how_likely_that_is(row: list, rankings: int, n: int):
    result = friedman([row] * n)
    assert result.f == math.inf
    assert result.p_f == pytest.approx(rankings ** -(n - 1.0))
    assert result.chi2 == pytest.approx(n * (len(row) - 1))  # the largest value that it can have


def test_methods_that_always_tie_do_not_differ():
    result = friedman(np.ones((4, 3)))
    assert (result.chi2, result.p, result.f, result.p_f) == (0, 1, 0, 1)
    assert result.average_ranks == (2, 2, 2)
    assert result.groups == ((0, 1, 2),)


@pytest.mark.parametrize(
    ("scores", "alpha", "named"),
    [
        ([[1, 2, 3]], 0.05, r"\(1, 3\)"),
        ([[1, 2], [2, 1]], 0.05, r"\(2, 2\)"),
        ([1, 2, 3], 0.05, r"\(3,\)"),
        ([[1, 2, 3], [1, 2, math.nan]], 0.05, "nan"),
        ([[1, 2, 3], [3, 2, 1]], 1, "alpha .* not 1"),
    ],
)
def test_bad_input_is_named(scores: list, alpha: float, named: str):
    with pytest.raises(ValueError, match=named):
        friedman(scores, alpha)
