"""How many seeds a difference needs."""

import math

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from study.statistics import compare_paired, seeds_needed


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_small_medium_and_large_effects_need_as_many_pairs_as_the_tables_say(effect: float, n: int):
    assert seeds_needed(sd=2.0, delta=2.0 * effect) == n  # two-sided, α = 0.05, power 0.8


@pytest.mark.parametrize("alpha", [0.01, 0.05])
@pytest.mark.parametrize("power", [0.8, 0.95])
@pytest.mark.parametrize("effect", [0.03, 0.3, 0.9])
def test_the_number_is_that_of_statsmodels(effect: float, power: float, alpha: float):
    theirs = TTestPower().solve_power(effect, alpha=alpha, power=power)
    assert seeds_needed(1.0, effect, alpha, power) == math.ceil(theirs)


@pytest.mark.parametrize("sd", [0.0, 1e-9, 1.0])
@pytest.mark.parametrize(("alpha", "fewest"), [(0.05, 6), (0.01, 8), (2 / 2**10, 10), (0.9, 2)])
def test_no_difference_is_so_large_that_fewer_seeds_do_than_the_sign_flip_test_needs(
    sd: float, alpha: float, fewest: int
):
    assert seeds_needed(sd, 1e6, alpha, power=0.95) == fewest
    assert compare_paired(np.arange(fewest) + 1, np.zeros(fewest)).p_smallest <= alpha
    assert compare_paired(np.arange(fewest - 1) + 1, np.zeros(fewest - 1)).p_smallest > alpha


def test_tiny_differences_need_many_seeds_and_no_long_search():
    # for large n the t-test is that of the normal distribution: n = ((1.960 + 0.842) / effect)²
    assert seeds_needed(1.0, 1e-4) == pytest.approx(2.80159**2 / 1e-8, rel=1e-4)
