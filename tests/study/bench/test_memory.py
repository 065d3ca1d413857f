import pytest
import torch

from study.bench.memory import PEAK, measure_held, measure_peak
from study.bench.plugins import AVALANCHE, OURS
from study.bench.record import CLREG
from tests.study.bench.tiny import CPU, TINY


def held(method):
    found = measure_held(TINY, method, CPU, (2, 5))
    return {(each.by, each.setting): each.median for each in found}


@pytest.mark.parametrize("method", OURS)
def test_ours_hold_the_same_at_the_second_experience_and_at_the_fifth(method):
    found = held(method)
    second, fifth = (found[CLREG, f"experience {experience}"] for experience in (2, 5))
    assert fifth == pytest.approx(second, rel=1e-3)  # of two terms and more one scalar is held
    if method != "KFAC":  # whose factors are squares of layers' widths
        assert fifth < 5.1


def test_avalanches_ewc_holds_two_copies_for_each_experience_before():
    found = held("EWC")
    copies = [found[AVALANCHE, f"experience {experience}"] for experience in (2, 5)]
    assert copies == pytest.approx([2, 8], rel=0.01)


def test_the_peak_of_a_pass_is_measured_in_a_process_of_its_own():
    threads = torch.get_num_threads()
    (found,) = measure_peak(TINY, CPU, 2**24, 24)
    assert found.quantity == PEAK
    assert found.setting == "max_bytes = 16 MiB"
    assert 0 <= found.median < 4, found.line
    assert torch.get_num_threads() == threads
