"""What a report computes before it says it: curves, matrices, and families of comparisons."""

import itertools
import re

import numpy as np
import pytest
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from study.protocol.schema import Comparisons
from study.report.comparisons import compare_methods, paired_by_seed
from study.report.method_results import MethodResult
from study.statistics import compare_paired, family, fewest_pairs
from tests.study.report.reading import markdown_tables
from tests.study.report.synthetic import LAST, LEARNED_FIRST, failed, record, toy, written


def result(method: str) -> MethodResult:
    protocol = toy()
    records = [*(record(protocol, method, seed=seed) for seed in range(4)), failed(protocol, method, 4)]
    return MethodResult("class", method, protocol.methods[method], None, tuple(records))


def with_seeds(scores: dict[str, list[float]]) -> list[MethodResult]:
    """Results with these average accuracies, seed by seed."""
    protocol = toy()
    return [
        MethodResult(
            "class",
            method,
            protocol.methods[method],
            None,
            tuple(
                record(protocol, method, seed=seed, accuracy=[[a, a]] if method == "joint" else [[0.9, 0.0], [a, a]])
                for seed, a in enumerate(accuracies)
            ),
        )
        for method, accuracies in scores.items()
    ]


def test_curves_and_matrices_are_means_over_the_seeds_that_finished():
    ewc = result("ewc")
    first, second = 100 * np.array(LAST["ewc"]).T
    learned = 100 * np.mean(LEARNED_FIRST)
    assert [summary.mean for summary in ewc.curve] == pytest.approx([learned, (first + second).mean() / 2])
    assert ewc.matrix == pytest.approx(np.array([[learned, 0.0], [first.mean(), second.mean()]]))
    assert {summary.n for summary in ewc.curve} == {4}


def test_one_slow_run_does_not_move_the_median():
    protocol = toy()
    records = tuple(record(protocol, "ewc", seed=seed, peak_memory=peak) for seed, peak in enumerate((3, 1, 1000)))
    ewc = MethodResult("class", "ewc", protocol.methods["ewc"], None, records)
    assert ewc.median(lambda record: record.peak_memory) == 3
    assert ewc.median(lambda record: record.memory_examples) is None


def test_joint_training_has_a_row_and_no_curve():
    joint = result("joint")
    assert joint.curve == []
    assert joint.matrix.shape == (1, 2)
    assert not joint.is_sequential


@pytest.mark.parametrize("seeds", [2, 6, 9])
def test_with_the_same_seeds_all_pairs_are_the_family_of_the_statistics(seeds):
    draws = np.random.default_rng(seeds).uniform(0.3, 0.9, (5, seeds))
    scores = {method: draws[i].tolist() for i, method in enumerate(toy().methods) if method != "joint"}
    found = compare_methods(with_seeds(scores))
    pairs = [
        (a.method, b.method, compare_paired(list(a.scores.values()), list(b.scores.values())))
        for b, a in itertools.combinations(with_seeds(scores), 2)
        for a, b in [(a, b) if b.method == "naive" else (b, a)]
    ]
    assert found == family(pairs)
    assert {pair.reachable for pair in found} == {seeds >= fewest_pairs(0.05 / len(found))}


def test_the_family_that_a_protocol_names_leaves_out_upper_references_and_other_pairs():
    draws = np.random.default_rng(0).uniform(0.3, 0.9, (5, 8))
    scores = {method: draws[i].tolist() for i, method in enumerate(toy().methods)}
    results = with_seeds(scores)
    named = [
        ("ewc", "naive"),
        ("online_ewc", "naive"),
        ("replay-2", "naive"),
        ("online_ewc", "ewc"),
        ("replay-2", "ewc"),
    ]
    found = compare_methods(results, [Comparisons(baselines=["naive", "ewc"])])
    by_method = {result.method: result.scores for result in results}
    assert found == family([(a, b, paired_by_seed(by_method[a], by_method[b])) for a, b in named], 0.05)
    without_ewc = with_seeds({method: values for method, values in scores.items() if method != "ewc"})
    found = compare_methods(without_ewc, [Comparisons(baselines=["naive", "ewc"])])
    assert [(pair.a, pair.b) for pair in found] == [("online_ewc", "naive"), ("replay-2", "naive")]
    found = compare_methods(results, [Comparisons(baselines=["ewc"], methods=["naive", "replay-2"], margin=3.0)])
    named = [("naive", "ewc"), ("replay-2", "ewc")]
    assert found == family([(a, b, paired_by_seed(by_method[a], by_method[b])) for a, b in named], 0.05, 3.0)


def test_of_several_families_each_is_corrected_by_itself():
    draws = np.random.default_rng(3).normal(0.6, 0.02, (5, 6))
    scores = {method: draws[i].tolist() for i, method in enumerate(toy().methods)}
    scores["ewc"] = [value + 0.1 for value in scores["naive"]]
    results = with_seeds(scores)
    of_ewc = Comparisons(baselines=["naive"], methods=["ewc"])
    of_others = Comparisons(baselines=["ewc"], methods=["online_ewc", "replay-2"], margin=30.0)
    found = compare_methods(results, [of_ewc, of_others])
    assert found == [*compare_methods(results, [of_ewc]), *compare_methods(results, [of_others])]
    assert [pair.size for pair in found] == [1, 2, 2]
    assert [pair.margin for pair in found] == [None, 30.0, 30.0]
    with_six_seeds = 2 / 2**6
    assert found[0].p_holm == with_six_seeds  # over all three it would be 3 times that
    assert [pair.reachable for pair in found] == [True, False, False]


def test_methods_without_a_common_seed_are_no_pair():
    protocol = toy()
    results = [
        MethodResult("class", method, protocol.methods[method], None, (record(protocol, method, seed=seed),))
        for seed, method in enumerate(("naive", "ewc"))
    ]
    assert compare_methods(results) == []


def test_intervals_of_percentages_end_at_0_and_100():
    (near_100,) = with_seeds({"ewc": [0.999, 1.0, 0.9]})
    assert near_100.accuracy.high == 100.0
    assert near_100.accuracy.low < 90.0
    (near_0,) = with_seeds({"ewc": [0.0, 0.001, 0.1]})
    assert near_0.accuracy.low == 0.0
    assert near_0.curve[-1].low == 0.0
    assert near_0.backward_transfer.low < 0.0, "a difference may be negative"


def test_every_interval_of_an_accuracy_that_a_report_shows_ends_at_0_and_100(tmp_path, monkeypatch):
    ends: list[float] = []
    plot = Axes.plot

    def recorded(axes: Axes, x: ArrayLike, *more: object, **style: object) -> list[object]:
        ends.extend(np.ravel(x))
        return plot(axes, x, *more, **style)

    monkeypatch.setattr(Axes, "plot", recorded)
    monkeypatch.setattr(Axes, "fill_between", lambda _, x, low, high, **style: ends.extend([*low, *high]))
    protocol = toy()
    records = [
        record(protocol, method, seed=seed, accuracy=[[a, 0.0], [a, a]])
        for method, accuracies in {"naive": [0.0, 0.001, 0.1], "ewc": [0.9, 1.0, 0.999]}.items()
        for seed, a in enumerate(accuracies)
    ]
    tables = markdown_tables(written(tmp_path, records, protocol=protocol))
    assert len(ends) > 8, "of the two figures"
    for headings, *rows in (tables["Published and ours"], tables["Class-incremental: what each method reached"]):
        columns = [i for i, heading in enumerate(headings) if "accuracy %" in heading or "ours %" in heading]
        shown = [end for cells in rows for i in columns for end in re.findall(r"[−\d.]+(?=[,\]])", cells[i])]
        assert shown
        ends += [float(end.replace("−", "-")) for end in shown]
    assert (min(ends), max(ends)) == (0, 100)
