"""On a GPU: the CPU's numbers, state on the device, and no step that waits for it."""

import pytest
import torch
from torch.utils.data import TensorDataset

from clreg_plugins import KFACPlugin, fisher_diagonal, kronecker_factors, mas_importance
from study.bench.plugins import OURS, StrategyStub, training_step
from study.bench.workloads import mlp

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(64, 784, generator=generator), torch.randint(0, 10, (64,), generator=generator))


METHODS = {**OURS, "KFAC": lambda: KFACPlugin(1.0, fisher="empirical")}


@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_the_device(method, data):
    strategy, plugin = StrategyStub(mlp(100).cuda()), METHODS[method]()
    plugin.consolidate(strategy, data)
    plugin.before_training_epoch(strategy)
    step = training_step(strategy, plugin, *(tensor.cuda() for tensor in data.tensors))
    step()  # the first one allocates
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(tensor.is_cuda for tensor in plugin.importance.values())


@pytest.mark.parametrize("measure", [fisher_diagonal, mas_importance])
def test_importance_is_that_of_the_cpu(measure, data):
    model = mlp(100)
    expected = measure(model, data)
    found = measure(model.cuda(), data)
    for name, reference in expected.items():
        difference = (found[name].cpu() - reference).abs().max()
        assert difference <= 1e-4 * reference.max(), f"{name}: {difference:.2e} of {reference.max():.2e}"


def test_kronecker_factors_are_those_of_the_cpu(data):
    model = mlp(100)
    expected = kronecker_factors(model, data)
    for name, layer in kronecker_factors(model.cuda(), data).items():
        for found, reference in zip(layer[2:], expected[name][2:], strict=True):
            assert found.is_cuda
            difference = (found.cpu() - reference).abs().max()
            assert difference <= 1e-4 * reference.max(), f"{name}: {difference:.2e} of {reference.max():.2e}"
