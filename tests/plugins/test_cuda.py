"""On a GPU: the CPU's numbers, state on the device, and no step that waits for it."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from clreg_plugins import fisher_diagonal, mas_importance
from study.cost import PLUGINS, strategy_stub

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(64, 784, generator=generator), torch.randint(0, 10, (64,), generator=generator))


@pytest.mark.parametrize("name", PLUGINS)
def test_no_step_waits_for_the_device(name, data):
    strategy, optimizer = strategy_stub(100, "cuda")
    plugin = PLUGINS[name]()
    plugin.consolidate(strategy, data)
    plugin.before_training_epoch(strategy)
    inputs, targets = (tensor.cuda() for tensor in data.tensors)
    for step in range(3):
        torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first step allocates
        try:
            optimizer.zero_grad()
            strategy.loss = F.cross_entropy(strategy.model(inputs), targets)
            plugin.before_backward(strategy)
            strategy.loss.backward()
            plugin.after_backward(strategy)
            plugin.before_update(strategy)
            optimizer.step()
            plugin.after_update(strategy)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(tensor.is_cuda for tensor in plugin.importance.values())


@pytest.mark.parametrize("measure", [fisher_diagonal, mas_importance])
def test_importance_is_that_of_the_cpu(measure, data):
    strategy, _ = strategy_stub(100, "cpu")
    expected = measure(strategy.model, data)
    found = measure(strategy.model.cuda(), data)
    for name, reference in expected.items():
        difference = (found[name].cpu() - reference).abs().max()
        assert difference <= 1e-4 * reference.max(), f"{name}: {difference:.2e} of {reference.max():.2e}"
