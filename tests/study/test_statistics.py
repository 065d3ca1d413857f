import math

import numpy as np
import pytest
from scipy import stats

from study.statistics import summarize


def test_summary_worked_out_by_hand():
    s = summarize([2.0, 4.0, 6.0, 8.0])
    assert (s.mean, s.n) == (5.0, 4)
    assert s.sd == pytest.approx(math.sqrt(20 / 3))
    margin = 3.182446 * math.sqrt(20 / 3) / 2  # the 97.5% point of Student's t with 3 degrees of freedom
    assert (s.low, s.high) == pytest.approx((5 - margin, 5 + margin), rel=1e-6)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_the_interval_is_that_of_the_t_test(confidence: float):
    x = np.random.default_rng(0).normal(0.8, 0.1, 7)
    s = summarize(x, confidence)
    theirs = stats.ttest_1samp(x, 0).confidence_interval(confidence)
    assert (s.low, s.high) == pytest.approx((theirs.low, theirs.high))


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = [s.low <= 3.0 <= s.high for s in (summarize(rng.normal(3, 2, 5)) for _ in range(2000))]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


def test_equal_samples_have_an_interval_of_width_zero():
    s = summarize([0.1] * 3)  # whose mean in floating point is not 0.1
    assert (s.mean, s.sd, s.low, s.high) == (0.1, 0, 0.1, 0.1)


def test_one_sample_has_a_mean_but_no_interval():
    s = summarize([0.7])
    assert (s.mean, s.n) == (0.7, 1)
    assert all(map(math.isnan, (s.sd, s.low, s.high)))


@pytest.mark.parametrize(
    ("samples", "confidence", "named"),
    [
        ([], 0.95, "at least one"),
        ([[1.0]], 0.95, r"\(1, 1\)"),
        ([1, math.inf], 0.95, "inf"),
        ([1, 2], 1, "not 1"),
    ],
)
def test_bad_input_is_named(samples: list, confidence: float, named: str):
    with pytest.raises(ValueError, match=named):
        summarize(samples, confidence)
