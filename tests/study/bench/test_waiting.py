import pytest
import torch

from study.bench.record import BenchError
from study.bench.waiting import measure_waiting, waits
from study.bench.workloads import Workload, mlp

TINY = Workload("tiny", lambda classes: mlp(4, classes), (784,), batch=8)


@pytest.fixture
def modes(monkeypatch):
    """A GPU that is none: which mode is set, one after the other."""
    seen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", seen.append)
    return seen


def raising(message):
    def step():
        raise RuntimeError(message)

    return step


def test_a_step_that_waits_is_told_from_one_that_does_not(modes):
    assert waits(lambda: None) is None
    assert waits(raising("called a synchronizing CUDA operation")) == "called a synchronizing CUDA operation"
    assert modes == ["error", "default", "error", "default"]


def test_another_error_is_not_taken_for_waiting_and_the_mode_is_put_back(modes):
    with pytest.raises(RuntimeError, match="out of memory"):
        waits(raising("out of memory"))
    assert modes == ["error", "default"]


def test_every_plugin_is_watched(monkeypatch):
    said = iter(["called a synchronizing CUDA operation", *[None] * 10_000])

    def seeing(step):
        step()
        return next(said)

    monkeypatch.setattr("study.bench.waiting.waits", seeing)
    found = list(measure_waiting(TINY, torch.device("cpu")))
    assert {"L2, ours", "EWC, ours", "Online EWC, ours", "MAS, ours", "SI, ours"} <= {each.mode for each in found}
    assert [each.median for each in found] == [1.0] + [0.0] * (len(found) - 1)
    assert found[0].note == "called a synchronizing CUDA operation"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_said():
    with pytest.raises(BenchError, match="--device cpu"):
        waits(lambda: None)
