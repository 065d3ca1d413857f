"""What a report computes before it says it: curves, matrices, and families of comparisons."""

import numpy as np
import pytest

from study.protocol.schema import Comparisons
from study.report.analysis import analyse
from study.report.comparisons import compare_methods, ranks_over_scenarios
from study.report.method_results import MethodResult, method_result
from study.report.selection import select
from study.statistics import compare_family, fewest_pairs, friedman
from tests.study.report.synthetic import LAST, LEARNED_FIRST, all_records, failed, record, toy


def result(method: str) -> MethodResult:
    protocol = toy()
    records = [*(record(protocol, method, seed=seed) for seed in range(4)), failed(protocol, method, 4)]
    return method_result("class", method, protocol.methods[method], None, records)


def with_seeds(scores: dict[str, list[float]]) -> list[MethodResult]:
    """Results with these average accuracies, seed by seed."""
    protocol = toy()
    return [
        method_result(
            "class",
            method,
            protocol.methods[method],
            None,
            [record(protocol, method, seed=seed, accuracy=[[0.9, 0.0], [a, a]]) for seed, a in enumerate(accuracies)],
        )
        for method, accuracies in scores.items()
    ]


def test_curves_and_matrices_are_means_over_the_seeds_that_finished():
    ewc = result("ewc")
    first, second = 100 * np.array(LAST["ewc"]).T
    learned = 100 * np.mean(LEARNED_FIRST)
    assert [summary.mean for summary in ewc.curve] == pytest.approx([learned, (first + second).mean() / 2])
    assert [summary.mean for summary in ewc.first_experience] == pytest.approx([learned, first.mean()])
    assert ewc.matrix == pytest.approx(np.array([[learned, 0.0], [first.mean(), second.mean()]]))
    assert {summary.n for summary in ewc.curve} == {4}


def test_joint_training_has_a_row_and_no_curve():
    joint = result("joint")
    assert joint.curve == joint.first_experience == []
    assert joint.matrix.shape == (1, 2)
    assert joint.is_reference
    assert not joint.is_sequential


@pytest.mark.parametrize("seeds", [2, 6, 9])
def test_with_the_same_seeds_all_pairs_are_the_family_of_the_statistics(seeds):
    draws = np.random.default_rng(seeds).uniform(0.3, 0.9, (5, seeds))
    scores = {method: draws[i].tolist() for i, method in enumerate(toy().methods) if method != "joint"}
    found = compare_methods(with_seeds(scores))
    assert found == compare_family({result.method: list(result.scores.values()) for result in with_seeds(scores)})
    assert {pair.reachable for pair in found} == {seeds >= fewest_pairs(0.05 / len(found))}


def test_the_family_that_a_protocol_names_leaves_out_upper_references_and_other_pairs():
    draws = np.random.default_rng(0).uniform(0.3, 0.9, (5, 8))
    scores = {method: draws[i].tolist() for i, method in enumerate(toy().methods)}
    found = compare_methods(with_seeds(scores), Comparisons(baselines=["naive", "ewc"]))
    assert [(pair.a, pair.b) for pair in found] == [
        ("ewc", "naive"),
        ("online_ewc", "naive"),
        ("replay-2", "naive"),
        ("online_ewc", "ewc"),
        ("replay-2", "ewc"),
    ]
    averages = {method: [100 * a for a in values] for method, values in scores.items() if method != "joint"}
    for pair, expected in zip(found, compare_family(averages, baselines=["naive", "ewc"]), strict=True):
        assert pair.p_holm == pytest.approx(expected.p_holm)
    without_ewc = with_seeds({method: values for method, values in scores.items() if method != "ewc"})
    found = compare_methods(without_ewc, Comparisons(baselines=["naive", "ewc"]))
    assert [(pair.a, pair.b) for pair in found] == [("online_ewc", "naive"), ("replay-2", "naive")]


def test_methods_without_a_common_seed_are_no_pair():
    protocol = toy()
    results = [
        method_result("class", method, protocol.methods[method], None, [record(protocol, method, seed=seed)])
        for seed, method in enumerate(("naive", "ewc"))
    ]
    assert compare_methods(results) == []


def test_ranks_are_over_the_methods_that_finished_in_every_scenario():
    protocol = toy()
    records = [r for r in all_records(protocol) if (r.run.scenario, r.run.label) != ("task", "ewc")]
    analysis = analyse(select("toy", protocol, records, []))
    assert analysis.ranks.methods == ("naive", "online_ewc", "replay-2", "joint")
    means = [
        [r.accuracy.mean for r in analysis.of(scenario) if r.method != "ewc"] for scenario in analysis.ranks.blocks
    ]
    assert analysis.ranks.result == friedman(means)
    assert not analysis.ranks.can_differ
    assert ranks_over_scenarios(analysis.of("class")) is None
