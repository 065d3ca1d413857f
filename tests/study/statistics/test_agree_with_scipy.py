"""Means and their intervals."""

import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from study.statistics import compare_paired, summarize


def test_summary_worked_out_by_hand():
    s = summarize([2.0, 4.0, 6.0, 8.0])
    assert (s.mean, s.n, s.interval) == (5.0, 4, "t")
    assert s.sd == pytest.approx(math.sqrt(20 / 3))
    margin = 3.182446 * math.sqrt(20 / 3) / 2  # the 97.5% point of Student's t with 3 degrees of freedom
    assert (s.low, s.high) == pytest.approx((5 - margin, 5 + margin), rel=1e-6)


@pytest.mark.parametrize("n", [2, 7, 19])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_below_20_samples_the_interval_is_that_of_the_t_test(n: int, confidence: float):
    x = np.random.default_rng(0).normal(0.8, 0.1, n)
    s = summarize(x, confidence)
    theirs = stats.ttest_1samp(x, 0).confidence_interval(confidence)
    assert (s.low, s.high) == pytest.approx((theirs.low, theirs.high))
    assert s.interval == "t"


def test_from_20_samples_on_the_interval_follows_the_skew_of_the_samples():
    s = summarize(np.random.default_rng(0).exponential(size=20))
    assert s.interval == "bca"
    assert s.high - s.mean > 1.2 * (s.mean - s.low), f"{s.low}, {s.mean}, {s.high}"


@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_bca_of_many_samples_without_skew_is_the_interval_of_the_normal_distribution(confidence: float):
    x = stats.norm.ppf((np.arange(400) + 0.5) / 400)
    s = summarize(x, confidence)
    half_width = stats.norm.ppf((1 + confidence) / 2) * s.sd / 20
    assert (s.low, s.high) == pytest.approx((-half_width, half_width), rel=0.03)


def test_the_bootstrap_gives_the_same_interval_again():
    x = np.random.default_rng(3).normal(size=25)
    assert summarize(x) == summarize(x)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = [s.low <= 3.0 <= s.high for s in (summarize(rng.normal(3, 2, 5)) for _ in range(2000))]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("n", [2, 3, 25])
def test_equal_samples_have_an_interval_of_width_zero(n: int):
    s = summarize([0.1] * n)  # whose mean in floating point need not be 0.1
    assert (s.mean, s.sd, s.low, s.high, s.interval) == (0.1, 0, 0.1, 0.1, "constant")


def test_samples_that_differ_by_rounding_alone_are_equal():
    s = summarize([0.3, 0.1 + 0.2, 0.3] * 7)
    assert (s.sd, s.low, s.high, s.interval) == (0, s.mean, s.mean, "constant")


def test_one_sample_has_a_mean_but_no_interval():
    s = summarize([0.7])
    assert (s.mean, s.n, s.interval) == (0.7, 1, "none")
    assert all(map(math.isnan, (s.sd, s.low, s.high)))


@pytest.mark.parametrize(
    ("samples", "confidence", "named"),
    [
        ([], 0.95, "at least one"),
        ([[1.0]], 0.95, r"\(1, 1\)"),
        ([1, math.inf], 0.95, "inf"),
        ([1, math.nan], 0.95, "nan"),
        ([1, 2], 1, "not 1"),
        ([1, 2], 0, "not 0"),
    ],
)
def test_bad_input_is_named(samples: list, confidence: float, named: str):
    with pytest.raises(ValueError, match=named):
        summarize(samples, confidence)


def test_many_samples_take_bounded_memory_and_have_the_interval_of_a_bootstrap_in_one_piece():
    x = np.random.default_rng(0).exponential(size=2000)
    tracemalloc.start()
    s = summarize(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    generator = np.random.default_rng(0)
    whole = stats.bootstrap((x,), np.mean, method="BCa", random_state=generator).confidence_interval
    assert (s.low, s.high) == (whole.low, whole.high)
    assert peak < 150 * 2**20, f"{peak / 2**20:.0f} MiB; all 9,999 resamples at once take {9999 * x.nbytes / 2**20:.0f}"


def test_flipping_the_signs_of_many_differences_takes_bounded_memory(monkeypatch):
    monkeypatch.setattr("study.statistics.paired.RESAMPLES", 9_999)
    a, b = np.random.default_rng(0).normal(size=(2, 1000))
    tracemalloc.start()
    compare_paired(a, b)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300 * 2**20, f"{peak / 2**20:.0f} MiB"
