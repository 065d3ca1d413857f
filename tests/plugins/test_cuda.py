"""On a GPU: the CPU's numbers, state on the device, and no step that waits for it."""

import pytest
import torch
from torch.utils.data import TensorDataset

from clreg_plugins import fisher_diagonal, mas_importance
from study.bench.plugins import OURS, strategy_stub, training_step
from study.bench.waiting import waits
from study.bench.workloads import mlp

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(64, 784, generator=generator), torch.randint(0, 10, (64,), generator=generator))


@pytest.mark.parametrize("gradient_path", ["autograd", "direct"])
@pytest.mark.parametrize("name", OURS)
def test_no_step_waits_for_the_device(name, gradient_path, data):
    strategy = strategy_stub(mlp(100).cuda())
    plugin = OURS[name](gradient_path=gradient_path)
    plugin.consolidate(strategy, data)
    plugin.before_training_epoch(strategy)
    step = training_step(strategy, plugin, *(tensor.cuda() for tensor in data.tensors))
    step()  # the first one allocates
    assert [waits(step) for _ in range(2)] == [None, None]
    assert all(tensor.is_cuda for tensor in plugin.importance.values())


@pytest.mark.parametrize("name", OURS)
def test_the_direct_path_gives_the_gradient_of_autograd(name, data):
    """Of half the loss, for weights that the loss reaches and for one that it does not."""
    found = {}
    for path in ("autograd", "direct"):
        torch.manual_seed(0)
        model = mlp(20).cuda()
        model.unused = torch.nn.Linear(3, 3).cuda()
        layers = list(model)[:-1]
        model.forward = lambda x, layers=layers: torch.nn.Sequential(*layers)(x)
        strategy, plugin = strategy_stub(model), OURS[name](gradient_path=path)
        plugin.consolidate(strategy, data)
        for p, importance in zip(model.parameters(), plugin.penalty.importance.values(), strict=True):
            importance += 0.1
            p.data += 0.1
        plugin.penalty._note_zeros()
        inputs, targets = (tensor.cuda() for tensor in data.tensors)
        strategy.loss = strategy._criterion(model(inputs), targets)
        plugin.before_forward(strategy)
        plugin.before_backward(strategy)
        (strategy.loss / 2).backward()
        plugin.after_backward(strategy)
        found[path] = {n: p.grad for n, p in model.named_parameters()}
    assert found["direct"]["unused.weight"].abs().max() > 0
    for n, expected in found["autograd"].items():
        torch.testing.assert_close(found["direct"][n], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("measure", [fisher_diagonal, mas_importance])
def test_importance_is_that_of_the_cpu(measure, data):
    model = mlp(100)
    expected = measure(model, data)
    found = measure(model.cuda(), data)
    for name, reference in expected.items():
        difference = (found[name].cpu() - reference).abs().max()
        assert difference <= 1e-4 * reference.max(), f"{name}: {difference:.2e} of {reference.max():.2e}"
