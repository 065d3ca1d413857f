"""Where time goes by kind of operation, and that it is all accounted for."""

import time

import pytest
import torch

from study.bench.passes import ours
from study.bench.profiling import (
    BEYOND_NAIVE,
    KINDS,
    OF_A_PASS,
    OTHERS,
    REST,
    _taken_apart,
    beyond,
    measure_pass_profile,
    measure_step_profile,
    seconds_by_kind,
)
from study.bench.record import Measurement
from study.bench.tables import TABLES
from study.bench.timing import Turn
from study.bench.workloads import CNN, RESNET, Workload, mlp

CPU = torch.device("cpu")
SMALL = Workload("small", lambda classes: mlp(50, classes), (784,), batch=8, samples=64)


def by_setting(found: list[Measurement]) -> dict[str, dict[str, Measurement]]:
    return {setting: {m.mode: m for m in found if m.setting == setting} for setting in {m.setting for m in found}}


def test_an_operation_counts_as_what_it_does():
    matrix = torch.rand(400, 400)
    products = seconds_by_kind(lambda: matrix @ matrix)
    assert max(products, key=products.get) == "products, convolutions"
    arithmetic = seconds_by_kind(lambda: [matrix.add_(1e-3) for _ in range(20)])
    assert max(arithmetic, key=arithmetic.get) == "other arithmetic"
    assert arithmetic["products, convolutions"] == 0


def test_no_operation_is_of_two_kinds():
    listed = [operation for operations in KINDS.values() for operation in operations]
    assert len(listed) == len(set(listed))


def test_what_no_operation_takes_is_in_between():
    matrix = torch.rand(100, 100)

    def work() -> None:
        time.sleep(0.3)
        matrix @ matrix

    (found,) = _taken_apart({"": Turn(work, 2)}, 1)[""]
    assert found[REST] > 0.1
    assert found["products, convolutions"] > 0
    assert list(found) == [*KINDS, OTHERS, REST]


def test_what_is_beyond_is_a_share_of_all_that_the_reference_takes():
    seconds, reference = [{"a": 3.0, "b": 2.0}], [{"a": 1.0, "b": 3.0}]
    assert beyond(seconds, reference) == [{"a": 0.5, "b": -0.25}]


def test_a_pass_is_taken_apart_into_shares():
    found = by_setting(list(measure_pass_profile(SMALL, 3, rounds=2)))
    assert found.keys() == {"exact Fisher, 3 classes", "empirical Fisher, 3 classes"}
    for shares in found.values():
        assert list(shares) == [*KINDS, OTHERS, REST]
        assert {each.quantity for each in shares.values()} == {OF_A_PASS}
        assert 0 < shares["products, convolutions"].median < 1
        assert not any(each.ours for each in shares.values()), "shares are no regression of ours"


def test_a_step_is_taken_apart_for_each_method():
    found = by_setting(list(measure_step_profile(SMALL, rounds=2)))
    assert found.keys() == {f"{method}, experience 2" for method in ("L2", "EWC", "Online EWC", "MAS", "SI")}
    assert {each.quantity for shares in found.values() for each in shares.values()} == {BEYOND_NAIVE}
    assert all(list(shares) == [*KINDS, OTHERS, REST] for shares in found.values())


@pytest.mark.parametrize("workload", [CNN, RESNET], ids=lambda workload: workload.name)
def test_operations_that_take_time_have_a_kind(workload):
    (empirical,) = [each for each in ours() if each.computes == "empirical Fisher"]
    model, images = workload.model(2, CPU), workload.images(16, 2, CPU)
    seconds = seconds_by_kind(lambda: empirical.measure(model, *images, 16))
    assert seconds[OTHERS] < 0.25 * sum(seconds.values())


def test_the_page_has_a_row_for_each_pass_and_a_column_for_each_kind():
    found = [*measure_pass_profile(SMALL, 3, rounds=1), *measure_step_profile(SMALL, rounds=1)]
    of_pass, of_step = TABLES["limit"]("cpu", found)
    assert [column.heading for column in of_pass.columns] == ["", *KINDS, OTHERS, REST]
    assert [row[0].text for row in of_pass.rows] == [
        "small, exact Fisher, 3 classes",
        "small, empirical Fisher, 3 classes",
    ]
    assert len(of_step.rows) == 5
