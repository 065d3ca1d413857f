"""Our samples against a published number."""

import math

import numpy as np
import pytest
from scipy import stats

from study.statistics import compare_with_published, summarize


def _samples(mean: float, sd: float, n: int) -> np.ndarray:
    """n samples with exactly this mean and standard deviation."""
    x = np.linspace(-1, 1, n)
    return mean + sd * x / x.std(ddof=1)


def test_the_second_example_of_lakens_scheel_and_isager():
    """2018, Equivalence testing for psychological research: t(97.78) = −1.90, p = .030 against a bound of 0.5622."""
    margin = 0.4929019 * math.sqrt((1.089725**2 + 1.189497**2) / 2)  # published as a standardized difference
    found = compare_with_published(_samples(4.785714, 1.089725, 49), 4.656863, 1.189497, "sd", 51, margin)
    assert found.df == pytest.approx(97.78, abs=5e-3)
    assert found.p_tost == pytest.approx(0.030, abs=5e-4)
    assert stats.t.ppf(found.p_tost, found.df) == pytest.approx(-1.90, abs=5e-3)
    assert found.p == pytest.approx(0.573, abs=5e-4)
    assert found.verdict == "reproduced"


def test_the_yield_example_of_the_ncss_manual():
    """NCSS, chapter 198: two varieties of corn, Welch's df 19.169, one-sided p-values 0.03628 and 0.02002."""
    a = [452, 874, 554, 447, 356, 754, 558, 574, 664, 682, 547, 435, 245]
    b = [546, 547, 774, 465, 459, 665, 467, 365, 589, 534, 456, 651, 654, 665, 546, 537]
    found = compare_with_published(a, np.mean(b), np.std(b, ddof=1), "sd", 16, margin=110)
    assert found.difference == pytest.approx(-8.1153846)
    assert (found.low, found.high) == pytest.approx((-120.27336, 104.04259))
    assert found.df == pytest.approx(19.169, abs=5e-4)
    assert found.p_tost == pytest.approx(0.03628, abs=5e-6)
    mirrored = compare_with_published(b, np.mean(a), np.std(a, ddof=1), "sd", 13, margin=110)
    assert mirrored.p_tost == pytest.approx(found.p_tost)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize("shift", [-3.0, 0.0, 2.0])
def test_welch_is_that_of_scipy_and_the_standard_error_says_what_the_spread_says(shift: float):
    x = np.random.default_rng(0).normal(90 + shift, 2, 6)
    found = compare_with_published(x, 90, 0.7, "sd", 10, margin=1)
    theirs = stats.ttest_ind_from_stats(x.mean(), x.std(ddof=1), 6, 90, 0.7, 10, equal_var=False)
    assert found.p == pytest.approx(theirs.pvalue)
    assert found == compare_with_published(x, 90, 0.7 / math.sqrt(10), "sem", 10, margin=1)


@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_zero_lies_in_the_interval_where_the_difference_is_not_significant(alpha: float):
    seen = set()
    for difference in np.linspace(-2, 2, 21):
        x = _samples(50 + difference, 1, 5)
        found = compare_with_published(x, 50, 0.5, "sd", 8, margin=0.54, alpha=alpha)  # too small for 5 samples
        assert found.ours == summarize(x, 1 - alpha)
        assert (found.low <= 0 <= found.high) == (found.p >= alpha), f"{found}"
        seen.add(found.verdict)
        assert found.verdict == ("inconclusive" if found.p >= alpha else "above" if difference > 0 else "below")
    assert seen == {"above", "below", "inconclusive"}


@pytest.mark.parametrize(("spread", "kind", "n"), [(0.5, "sem", 20), (2.0, "sd", 16), (0.3, "sem", 6)])
def test_a_number_is_testable_if_samples_without_end_at_the_published_mean_could_show_it(spread, kind, n):
    samples = _samples(50, 1e-9, 100)  # of so many published ones, as good as any
    bound = float(stats.t.isf(0.05, n - 1)) * (spread / math.sqrt(n) if kind == "sd" else spread)
    for margin, verdict in ((bound * 1.01, "reproduced"), (bound * 0.99, "not testable")):
        assert compare_with_published(samples, 50, spread, kind, n, margin).verdict == verdict


@pytest.mark.parametrize("ours", [[60.0, 60.1, 60.2], [50.0, 50.1, 50.2], [50.0]])
def test_what_is_not_testable_is_so_whatever_our_samples_are(ours):
    found = compare_with_published(ours, 50, 0.5, "sem", 20, margin=0.8)
    assert found.verdict == "not testable"
    assert len(ours) == 1 or (found.p < 0.05) == (ours[0] == 60), "Welch's test would say above"


def test_a_number_taken_as_exact_is_testable_with_every_margin_but_0():
    for published in ((None, None, None), (0.0, "sd", 5)):
        assert compare_with_published([50, 50, 50], 50, *published, margin=1e-9).verdict == "reproduced"
        assert compare_with_published([50, 50, 50], 50, *published, margin=0.0).verdict == "not testable"
        assert compare_with_published([50, 51, 52], 40, *published, margin=0.0).verdict == "not testable"


@pytest.mark.parametrize("published", [(0.5, "sem", 20), (2.0, "sd", 16), (0.0, "sd", 5), (None, None, None)])
@pytest.mark.parametrize("alpha", [0.01, 0.05])
@pytest.mark.parametrize("mean", [49.0, 50.0, 53.0])
def test_a_margin_passes_if_it_is_larger_than_the_smallest_that_does(published, alpha, mean):
    given = (_samples(mean, 0.7, 6), 50, *published)
    smallest = compare_with_published(*given, margin=1.0, alpha=alpha).smallest_margin
    for share, passes in ((1.001, True), (0.999, False)):
        found = compare_with_published(*given, margin=share * smallest, alpha=alpha)
        assert found.smallest_margin == smallest
        assert (found.p_tost < alpha) is (found.verdict == "reproduced") is passes, found


@pytest.mark.parametrize("n", [2, 3, 4, 10])
def test_what_can_be_shown_is_testable_and_what_is_testable_can_be_shown(n):
    shown = []
    for ours, step in ((3, 1), (5, 1), (20, 3), (500, 3)):  # from 20 on the interval is a bootstrap, which takes time
        for share in (1e-12, *np.linspace(0.1, 2, 9))[::step]:  # of the published variance, which is that of their mean
            sd = math.sqrt(share * ours)
            for margin in (1.0, 1.5, 1.7, 1.9, 2.1, 2.3, 2.75, 3.0, 3.5, 5.0)[::step]:
                found = compare_with_published(_samples(50, sd, ours), 50, 1.0, "sem", n, margin)
                assert (found.p_tost < 0.05) == (found.verdict == "reproduced"), (ours, sd, margin)
                shown += [margin] if found.verdict == "reproduced" else []
    least = min(shown)
    assert compare_with_published([50, 50, 51], 50, 1.0, "sem", n, least).verdict != "not testable"
    assert compare_with_published([50, 50, 51], 50, 1.0, "sem", n, 1.6).verdict == "not testable"


def test_few_published_runs_are_made_up_for_by_runs_of_ours_that_spread():
    """3 published runs: t.95 of 2 degrees of freedom is 2.92, and yet a margin of 2.75 standard errors can be met."""
    found = compare_with_published(_samples(50, math.sqrt(10), 20), 50, 1.0, "sem", 3, margin=2.75)
    assert found.df == pytest.approx(1 / ((1 / 3) ** 2 / 19 + (2 / 3) ** 2 / 2))
    assert found.verdict == "reproduced"


def test_equivalence_is_an_interval_at_twice_the_level_within_the_margin():
    seen = set()
    for difference in np.linspace(-2, 2, 21):
        given = (_samples(50 + difference, 1, 8), 50, 0.5, "sd", 8, 1.2)
        found, wider = compare_with_published(*given, alpha=0.05), compare_with_published(*given, alpha=0.1)
        within = wider.low > -1.2 and wider.high < 1.2
        assert (found.p_tost < 0.05) == within == (found.verdict == "reproduced"), f"{found}"
        seen.add(within)
    assert seen == {True, False}


def test_a_difference_that_is_significant_but_within_the_margin_is_reproduced():
    found = compare_with_published(_samples(97.2, 0.1, 10), 97.0, 0.1, "sd", 10, margin=0.5)
    assert found.p < 0.05
    assert found.verdict == "reproduced"


def test_without_a_published_spread_the_number_is_taken_as_exact():
    x = np.random.default_rng(1).normal(90, 2, 7)
    found = compare_with_published(x, 89, None, None, None, margin=1.5)
    theirs = stats.ttest_1samp(x, 89)
    interval = theirs.confidence_interval(0.95)
    assert (found.p, found.df) == pytest.approx((theirs.pvalue, theirs.df))
    assert (found.low, found.high) == pytest.approx((interval.low - 89, interval.high - 89))
    tost = [stats.ttest_1samp(x, 89 - 1.5, alternative="greater"), stats.ttest_1samp(x, 89 + 1.5, alternative="less")]
    assert found.p_tost == pytest.approx(max(test.pvalue for test in tost))


@pytest.mark.parametrize("published", [(0.2, "sd", 10), (None, None, None), (None, "sd", 10)])
def test_a_single_run_cannot_be_tested(published: tuple):
    found = compare_with_published([97.4], 97.0, *published, margin=100)
    assert found.difference == pytest.approx(0.4)
    assert found.verdict == "inconclusive"
    assert all(map(math.isnan, (found.low, found.high, found.df, found.p, found.p_tost, found.smallest_margin)))


@pytest.mark.parametrize("published", [(0.0, "sd", 10), (0.0, "sem", 4), (None, None, None)])
@pytest.mark.parametrize(
    ("ours", "p", "p_tost", "verdict"),
    [
        (97.0, 1, 0, "reproduced"),
        (97.25, 0, 0, "reproduced"),
        (96.75, 0, 0, "reproduced"),
        (97.5, 0, 0.5, "above"),  # on the margin, which is not within it
        (98.0, 0, 1, "above"),
        (96.0, 0, 1, "below"),
    ],
)
def test_where_nothing_varies_a_difference_is_sure(published, ours, p, p_tost, verdict):
    found = compare_with_published([ours] * 3, 97.0, *published, margin=0.5)
    assert (found.p, found.p_tost, found.verdict) == (p, p_tost, verdict)
    assert found.low == found.high == found.difference == ours - 97.0
    assert math.isfinite(found.df)


def test_a_mean_that_equals_the_published_one_but_for_rounding_does_not_differ():
    found = compare_with_published([0.1 + 0.2] * 3, 0.3, 0.0, "sd", 3, margin=0.1)
    assert (found.difference, found.p) == (0, 1)


@pytest.mark.parametrize("samples", [[97.1, 96.9, 97.0], [97.0, 97.0, 97.0]])
def test_one_side_that_does_not_vary_leaves_the_spread_of_the_other(samples: list):
    spread = 0.0 if np.ptp(samples) else 0.3
    found = compare_with_published(samples, 96.0, spread, "sd", 5, margin=0.5)
    assert found.df == pytest.approx(4 if spread else 2)
    error = 0.3 / math.sqrt(5) if spread else np.std(samples, ddof=1) / math.sqrt(3)
    assert found.p == pytest.approx(2 * stats.t.sf(1 / error, found.df))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"samples": []}, "at least one"),
        ({"alpha": 0}, "alpha .* 0"),
    ],
)
def test_bad_input_is_named(options: dict, named: str):
    good = {
        "samples": [97.0, 97.2],
        "published_mean": 97.0,
        "published_spread": 0.1,
        "spread_kind": "sd",
        "published_n": 10,
        "margin": 0.5,
    }
    with pytest.raises(ValueError, match=named):
        compare_with_published(**good | options)
