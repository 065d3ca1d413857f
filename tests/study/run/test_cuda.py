"""Runs on a GPU; without one these skip."""

from pathlib import Path

import numpy as np
import pytest
import torch

from study.run.run_environment import RunEnvironment
from study.run.trainer import perform
from tests.study.run.test_checkpoint import stop_before

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use")

HERE = RunEnvironment(Path())


@pytest.mark.parametrize("method", ["naive", "ewc", "si", "lwf", "replay-matched-uint8", "cumulative"])
def test_a_run_on_a_gpu_learns_what_one_on_the_cpu_does(run_of, method):
    on_gpu, on_cpu = (perform(run_of(method, "task", device=device), HERE) for device in ("cuda", "cpu"))
    assert on_gpu.error is None
    assert on_gpu.gpu == torch.cuda.get_device_name()
    assert np.abs(np.subtract(on_gpu.loss, on_cpu.loss)).max() < 0.01, (on_gpu.loss, on_cpu.loss)


def test_a_resumed_run_on_a_gpu_equals_an_uninterrupted_one(run_of, tmp_path, monkeypatch):
    run, environment = run_of("ewc", "task", device="cuda"), RunEnvironment(Path(), checkpoints=tmp_path)
    stop_before(1, run, environment, monkeypatch)
    resumed, whole = perform(run, environment), perform(run, HERE)
    assert resumed.resumed == 1
    assert (resumed.accuracy, resumed.loss) == (whole.accuracy, whole.loss)
