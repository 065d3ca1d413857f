"""Runs on a GPU; without one these skip."""

from pathlib import Path

import numpy as np
import pytest
import torch

from study.run import trainer as training
from study.run.run_environment import RunEnvironment
from study.run.trainer import perform

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use")

HERE = RunEnvironment(Path())


class Stopped(BaseException):
    """As Ctrl-C."""


@pytest.mark.parametrize("method", ["naive", "ewc", "si", "lwf", "replay-matched-uint8", "cumulative"])
def test_a_run_on_a_gpu_learns_what_one_on_the_cpu_does(run_of, method):
    on_gpu, on_cpu = (perform(run_of(method, "task", device=device), HERE) for device in ("cuda", "cpu"))
    assert on_gpu.error is None
    assert on_gpu.hardware.gpu == torch.cuda.get_device_name()
    assert np.abs(np.subtract(on_gpu.loss, on_cpu.loss)).max() < 0.01, (on_gpu.loss, on_cpu.loss)


def test_a_resumed_run_on_a_gpu_equals_an_uninterrupted_one(run_of, tmp_path, monkeypatch):
    run, learn = run_of("ewc", "task", device="cuda"), training.Learner.learn

    def stopping(self: training.Learner, index: int) -> None:
        if index == 1:
            raise Stopped
        learn(self, index)

    environment = RunEnvironment(Path(), checkpoints=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(training.Learner, "learn", stopping)
        with pytest.raises(Stopped):
            perform(run, environment)
    resumed, whole = perform(run, environment), perform(run, HERE)
    assert resumed.resumed == 1
    assert (resumed.accuracy, resumed.loss) == (whole.accuracy, whole.loss)
