"""Two methods over the same seeds."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from study.statistics import compare_paired, summarize


def exact_sign_flip_p(differences: list[int]) -> float:
    """By the definition, in integers, which have no rounding."""
    flipped = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in _signs(len(differences))]
    return sum(abs(f) >= abs(sum(differences)) for f in flipped) / len(flipped)


def _signs(n: int) -> list[tuple[int, ...]]:
    return list(itertools.product((1, -1), repeat=n))


def _against_zero(differences: list):
    return compare_paired(differences, [0] * len(differences))


def test_sign_flips_counted_by_hand():
    # |±3 ± 1 ± 2| is 6, 4, 2, 0, each twice; the data give 3 − 1 + 2 = 4, and 4 of 8 are at least that
    assert _against_zero([3, -1, 2]).p == 4 / 8
    assert _against_zero([3, 1, 2]).p == 2 / 8
    assert _against_zero([-3, 1, 2]).p == 1


@pytest.mark.parametrize("n", range(1, 11))
def test_the_smallest_p_is_reached_where_all_seeds_agree(n: int):
    better = _against_zero(list(range(1, n + 1)))
    assert better.p == better.p_smallest == 2 / 2**n
    assert _against_zero([-1] * n).p == 2 / 2**n


def test_rounding_breaks_no_tie_of_the_sign_flip_test():
    """Accuracies are multiples of 1/N: the p-value is that of the numbers of right answers, whatever N."""
    rng = np.random.default_rng(0)
    broken_without_care = 0
    for n_images in (7, 10, 360, 1000, 10_000):
        for _ in range(20):
            right_a, right_b = rng.integers(0, 7, 8), rng.integers(0, 7, 8)
            a, b = right_a / n_images + 0.1, right_b / n_images + 0.1
            exact = exact_sign_flip_p((right_a - right_b).tolist())
            assert compare_paired(a, b).p == exact, f"{right_a} and {right_b} of {n_images}"
            plain = stats.permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=np.inf)
            broken_without_care += plain.pvalue != exact
    assert broken_without_care > 0, "these scores would not show a broken tie"


@pytest.mark.parametrize("n", [11, 16, 20])
def test_with_many_pairs_every_flip_is_counted_too(n: int):
    differences = np.random.default_rng(n).integers(-4, 7, n)
    sums = np.zeros(1, int)
    for d in differences:
        sums = np.concatenate([sums + d, sums - d])
    assert _against_zero(differences.tolist()).p == np.mean(np.abs(sums) >= abs(differences.sum()))


def test_forty_equal_differences_are_a_coin_thrown_forty_times():
    differences = [1] * 26 + [-1] * 14
    assert _against_zero(differences).p == pytest.approx(stats.binomtest(26, 40).pvalue, rel=1e-12)
    assert _against_zero([0.1] * 40).p == 2 / 2**40


def test_of_more_pairs_flips_are_drawn():
    differences = [1] * 30 + [-1] * 20
    exact = stats.binomtest(30, 50).pvalue
    found = _against_zero(differences)
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 99_999))
    assert found == _against_zero(differences)


def test_a_sampled_p_is_never_zero():
    found = _against_zero(list(range(1, 51)))
    assert found.p == found.p_smallest == 1e-5  # of the draws only the data's own is as far: 2/2⁵⁰ of them would be


def test_exchanging_the_methods_turns_the_signs_and_nothing_else():
    a, b = np.random.default_rng(4).normal(size=(2, 9))
    there, back = compare_paired(a, b), compare_paired(b, a)
    assert (there.p, there.p_wilcoxon, there.sd) == pytest.approx((back.p, back.p_wilcoxon, back.sd))
    assert (there.difference, there.effect_size) == pytest.approx((-back.difference, -back.effect_size))
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_a_test_in_percent_says_the_same_as_one_in_fractions():
    a, b = np.random.default_rng(5).uniform(size=(2, 9)).round(2)
    fractions, percent = compare_paired(a, b), compare_paired(100 * a, 100 * b)
    assert (percent.p, percent.p_wilcoxon) == (fractions.p, fractions.p_wilcoxon)
    assert percent.effect_size == pytest.approx(fractions.effect_size)
    assert percent.difference == pytest.approx(100 * fractions.difference)


@pytest.mark.parametrize("n", [8, 25])
def test_the_interval_is_that_of_the_differences(n: int):
    a, b = np.random.default_rng(6).normal(size=(2, n))
    found, mean = compare_paired(a, b, 0.9), summarize(a - b, 0.9)
    assert (found.n, found.interval) == (n, mean.interval)
    assert (found.difference, found.low, found.high) == pytest.approx((mean.mean, mean.low, mean.high))
    assert found.sd == pytest.approx(np.std(a - b, ddof=1))


def test_effect_size_worked_out_by_hand():
    # mean 3, sd √2.5, and for 4 degrees of freedom Γ(2) / (√2 Γ(3/2)) = √(2/π)
    assert _against_zero([1, 2, 3, 4, 5]).effect_size == pytest.approx(3 / math.sqrt(2.5) * math.sqrt(2 / math.pi))


def test_effect_size_is_unbiased_where_that_of_the_samples_is_too_large():
    rng = np.random.default_rng(7)
    samples = rng.normal(0.8, 1, (20_000, 6))
    plain = samples.mean(axis=1) / samples.std(axis=1, ddof=1)
    correction = compare_paired(samples[0], np.zeros(6)).effect_size / plain[0]
    error = plain.std() / math.sqrt(plain.size)
    assert plain.mean() > 0.8 + 10 * error
    assert correction * plain.mean() == pytest.approx(0.8, abs=4 * error)


def test_equal_scores_show_no_difference():
    a = [0.7, 0.1 + 0.2, 0.9]
    found = compare_paired(a, [0.7, 0.3, 0.9])  # equal but for rounding
    assert (found.difference, found.low, found.high, found.interval) == (0, 0, 0, "constant")
    assert (found.p, found.p_wilcoxon, found.effect_size, found.sd) == (1, 1, 0, 0)
    assert math.copysign(1, compare_paired([0.3], [0.1 + 0.2]).difference) == 1, "printed as −0"


@pytest.mark.parametrize("sign", [1, -1])
def test_a_constant_difference_is_an_infinite_effect(sign: int):
    b = np.array([0.1, 0.25, 0.3, 0.7, 0.9, 0.95])
    found = compare_paired(b + sign * 0.1, b)
    assert (found.effect_size, found.sd, found.interval) == (sign * math.inf, 0, "constant")
    assert found.p == found.p_wilcoxon == 2 / 2**6
    assert found.low == found.high == found.difference == pytest.approx(sign * 0.1)


def test_one_pair_tells_a_difference_and_nothing_more():
    found = compare_paired([0.9], [0.8])
    assert (found.n, found.p, found.p_wilcoxon, found.p_smallest, found.interval) == (1, 1, 1, 1, "none")
    assert found.difference == pytest.approx(0.1)
    assert all(map(math.isnan, (found.low, found.high, found.sd, found.effect_size)))


def test_two_pairs_have_no_unbiased_effect_size():
    assert math.isnan(_against_zero([1, 2]).effect_size)


@pytest.mark.parametrize("n", [2, 5, 12, 25])
def test_equivalence_is_two_one_sided_tests_of_scipy(n: int):
    a, b = np.random.default_rng(n).normal(0.2, 1, (2, n))
    for margin in (0.1, 0.5, 1.0, 2.0):
        above = stats.ttest_1samp(a - b, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(a - b, margin, alternative="less").pvalue
        assert compare_paired(a, b).p_equivalent(margin) == pytest.approx(max(above, below)), margin


@pytest.mark.parametrize("alpha", [0.01, 0.05])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 0.5])
def test_a_margin_passes_if_it_is_larger_than_the_smallest_that_does(alpha: float, shift: float):
    a, b = np.random.default_rng(10).normal(size=(2, 12))
    found = compare_paired(a + shift, b)
    smallest = found.smallest_margin(alpha)
    assert found.p_equivalent(1.001 * smallest) < alpha < found.p_equivalent(0.999 * smallest)


def test_differences_that_do_not_vary_are_equivalent_within_every_larger_margin():
    found = _against_zero([-2, -2, -2])
    assert [found.p_equivalent(margin) for margin in (2.5, 2.0, 1.5)] == [0, 0.5, 1]
    assert found.smallest_margin(0.05) == 2


def test_one_pair_has_no_equivalence_test():
    found = _against_zero([1])
    assert math.isnan(found.p_equivalent(100))
    assert math.isnan(found.smallest_margin(0.05))


@pytest.mark.parametrize("n", [5, 14, 30])
def test_wilcoxon_without_ties_is_that_of_scipy(n: int):
    a, b = np.random.default_rng(8).normal(0.3, 1, (2, n))
    assert compare_paired(a, b).p_wilcoxon == stats.wilcoxon(a - b).pvalue


def test_wilcoxon_with_ties_is_exact():
    # ranks 1.5, 1.5, 3, 4.5, 4.5; the negative one has 1.5, and rank sums of at most 1.5 are 0, 1.5, 1.5: 3 of 32
    assert _against_zero([1, -1, 2, 3, 3]).p_wilcoxon == 2 * 3 / 32
    a = np.array([0.9, 0.8, 0.7, 0.6, 0.4])
    b = np.array([0.8, 0.9, 0.5, 0.3, 0.1])  # the same differences in tenths, unequal in their last digits
    assert len(set(np.abs(a - b))) > 3
    assert compare_paired(a, b).p_wilcoxon == 2 * 3 / 32


def test_wilcoxon_with_ties_counts_sums_of_shared_ranks():
    """By the definition, with the ranks doubled so that halves are integers; sizes far from their ranks."""
    rng = np.random.default_rng(9)
    for _ in range(10):
        differences = rng.choice([-40, -7, -2, 1, 2, 7, 9, 40], 8)
        doubled = np.sign(differences) * 2 * stats.rankdata(np.abs(differences))
        found = _against_zero(differences.tolist())
        assert found.p_wilcoxon == exact_sign_flip_p(doubled.astype(int).tolist()), f"{differences}"


def test_wilcoxon_drops_seeds_without_a_difference():
    assert _against_zero([0, 1, 2, 3, 0, 4]).p_wilcoxon == 2 / 2**4


@pytest.mark.parametrize(
    ("a", "b", "confidence", "named"),
    [
        ([1, 2], [1, 2, 3], 0.95, "not 2 and 3"),
        ([], [], 0.95, "a must be a vector with at least one"),
        ([1], [[1]], 0.95, "b must be a vector"),
        ([1, 2], [1, math.nan], 0.95, "b must be finite, not nan"),
        ([1, 2], [1, 3], 95, "confidence .* not 95"),
    ],
)
def test_bad_input_is_named(a: list, b: list, confidence: float, named: str):
    with pytest.raises(ValueError, match=named):
        compare_paired(a, b, confidence)
