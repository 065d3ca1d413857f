"""Several methods over the same seeds."""

from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from study.statistics import FamilyComparison, compare_paired, family, family_pairs


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        # Demšar 2006, section 3.2.2: 0.016, 0.019 and 0.607 against α/3, α/2 and α: the first two reject
        # (Bonferroni would not reject the second)
        ([0.607, 0.016, 0.019], [0.607, 0.048, 0.048]),
        ([0.01, 0.02, 0.03, 0.3], [0.04, 0.06, 0.06, 0.3]),
        ([0.6, 0.7, 0.8], [1, 1, 1]),
        ([], []),
    ],
)
def test_p_values_are_adjusted_as_holm_says(p_values: list[float], adjusted: list[float]):
    comparison = compare_paired([1, 2], [2, 1])
    found = family([("a", "b", replace(comparison, p=p)) for p in p_values])
    assert [pair.p_holm for pair in found] == pytest.approx(adjusted)
    assert [pair.significant for pair in found] == [p <= 0.05 for p in adjusted]


def test_p_values_are_adjusted_as_statsmodels_does():
    rng, comparison = np.random.default_rng(0), compare_paired([1, 2], [2, 1])
    for m in range(1, 8):
        p = (rng.random(m) ** 3).round(2)
        found = family([("a", "b", replace(comparison, p=each)) for each in p])
        assert [pair.p_holm for pair in found] == multipletests(p, method="holm")[1].tolist()


def _steps_apart(n_methods: int, n_seeds: int) -> dict[str, list[float]]:
    """Each method better than the one before it, on all seeds, so that every p is the smallest possible."""
    return {f"m{k}": [k + 0.1 * seed for seed in range(n_seeds)] for k in range(n_methods)}


def all_pairs(scores: dict[str, list[float]]) -> list[FamilyComparison]:
    return family([(a, b, compare_paired(scores[a], scores[b])) for a, b in family_pairs(scores)])


@pytest.mark.parametrize(
    ("n_methods", "n_seeds", "reachable"),
    [
        (2, 5, False),  # 2/2⁵ = 0.0625
        (2, 6, True),  # 2/2⁶ = 0.03125
        (3, 6, False),  # three times that
        (3, 7, True),  # 3 · 2/2⁷ = 0.046875
        (4, 7, False),  # 6 · 2/2⁷ = 0.09375
        (4, 8, True),  # 6 · 2/2⁸ = 0.046875
        (2, 1, False),
    ],
)
def test_too_few_seeds_are_told_from_no_difference(n_methods: int, n_seeds: int, reachable: bool):
    found = all_pairs(_steps_apart(n_methods, n_seeds))
    assert {c.reachable for c in found} == {reachable}
    assert {c.significant for c in found} == {reachable}, "where all p are the smallest, what can be reached is"


def test_enough_seeds_without_a_difference_are_not_significant():
    [found] = all_pairs({"a": [1, 2, 3, 4, 5, 6, 7], "b": [2, 1, 4, 3, 6, 5, 7]})
    assert found.reachable
    assert not found.significant


def test_with_several_baselines_no_pair_counts_twice():
    scores = _steps_apart(4, 8)
    found = family([(a, b, compare_paired(scores[a], scores[b])) for a, b in family_pairs(scores, ["m0", "m2"])])
    assert [(c.a, c.b) for c in found] == [("m1", "m0"), ("m2", "m0"), ("m3", "m0"), ("m1", "m2"), ("m3", "m2")]
    assert {c.p_holm for c in found} == {5 * 2 / 2**8}


def test_of_the_methods_only_those_named_are_compared_with_the_baselines():
    methods = ["m0", "m1", "m2", "m3"]
    assert family_pairs(methods, ["m0"], ["m1", "m3"]) == [("m1", "m0"), ("m3", "m0")]
    assert family_pairs(methods, ["m0", "m2"], ["m3"]) == [("m2", "m0"), ("m3", "m0"), ("m3", "m2")]
    assert family_pairs(methods, ["m0"], methods) == family_pairs(methods, ["m0"])


def test_equivalence_is_adjusted_as_holm_says_for_the_differences():
    rng = np.random.default_rng(0)
    pairs = [(f"m{k}", "m0", compare_paired(rng.normal(k / 2, 1, 9), np.zeros(9))) for k in range(4)]
    found = family(pairs, margin=1.5)
    plain = [comparison.p_equivalent(1.5) for _, _, comparison in pairs]
    order = np.argsort(plain)
    stepped = np.maximum.accumulate([(len(pairs) - i) * plain[k] for i, k in enumerate(order)])
    assert [found[k].p_equivalent for k in order] == pytest.approx(np.minimum(stepped, 1))
    assert [pair.equivalent for pair in found] == [pair.p_equivalent < 0.05 for pair in found]
    assert {pair.equivalent for pair in found} == {True, False}
    assert [(pair.p_holm, pair.significant) for pair in found] == [(p.p_holm, p.significant) for p in family(pairs)]


def test_without_a_margin_nothing_is_said_to_be_equivalent():
    [found] = all_pairs({"a": [1, 2, 3, 4, 5, 6, 7], "b": [2, 1, 4, 3, 6, 5, 7]})
    assert (found.p_equivalent, found.equivalent) == (None, False)


def test_a_pair_of_one_seed_is_not_shown_to_be_equivalent():
    pairs = [("a", "b", compare_paired([1, 1.1, 1.2], [1, 1, 1])), ("c", "b", compare_paired([1], [1]))]
    shown, one = family([*pairs, *pairs], margin=5)[-2:]
    assert (shown.equivalent, one.equivalent) == (True, False)
    assert shown.p_equivalent == pytest.approx(4 * pairs[0][2].p_equivalent(5))
    assert np.isnan(one.p_equivalent)


def test_two_seeds_that_tie_are_not_shown_to_be_equivalent():
    two, three = (family([("a", "b", compare_paired([1] * n, [1] * n))], margin=5)[0] for n in (2, 3))
    assert (two.equivalent, three.equivalent) == (False, True)
