"""How large a difference is found."""

import math

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from study.statistics import compare_paired, detectable_difference


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_small_medium_and_large_effects_are_found_by_as_many_pairs_as_the_tables_say(effect: float, n: int):
    # two-sided, α = 0.05, power 0.8
    assert detectable_difference(2.0, n) <= 2.0 * effect < detectable_difference(2.0, n - 1)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.05 / 36])
@pytest.mark.parametrize("power", [0.8, 0.95])
@pytest.mark.parametrize("n", [20, 30, 1000])
def test_the_difference_is_that_of_statsmodels(n: int, power: float, alpha: float):
    theirs = TTestPower().solve_power(nobs=n, alpha=alpha, power=power)
    assert detectable_difference(3.0, n, alpha, power) == pytest.approx(3.0 * theirs, rel=1e-4)


@pytest.mark.parametrize(("alpha", "fewest"), [(0.05, 6), (0.01, 8), (2 / 2**10, 10), (0.9, 2)])
def test_fewer_seeds_than_the_sign_flip_test_needs_find_none(alpha: float, fewest: int):
    assert math.isfinite(detectable_difference(1.0, fewest, alpha, power=0.95))
    assert detectable_difference(1.0, fewest - 1, alpha, power=0.95) == math.inf
    assert compare_paired(np.arange(fewest) + 1, np.zeros(fewest)).p_smallest <= alpha
    assert compare_paired(np.arange(fewest - 1) + 1, np.zeros(fewest - 1)).p_smallest > alpha


def test_without_spread_every_difference_is_found():
    assert detectable_difference(0.0, 20) == 0


def test_many_seeds_find_tiny_differences():
    # for large n the t-test is that of the normal distribution: δ = (1.960 + 0.842) / √n
    assert detectable_difference(1.0, 10**8) == pytest.approx(2.80159e-4, rel=1e-4)
