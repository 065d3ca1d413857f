"""Frozen weights in eight bits, as a LoRA's base may have them."""

import pytest
import torch
from torch import nn

from clreg_plugins import L2Plugin, SIPlugin
from tests.plugins.digits import class_incremental, mlp, parameters_of, strategy_for


class Quantised(nn.Module):
    """A frozen layer in float8 in front of one that is trained."""

    def __init__(self, dtype):
        super().__init__()
        self.inner = mlp()
        self.base = nn.Parameter(self.inner[0].weight.detach().to(dtype), requires_grad=False)
        self.inner[0].weight = None

    def forward(self, x):
        """Logits."""
        hidden = torch.relu(x @ self.base.float().T + self.inner[0].bias)
        return self.inner[2](hidden)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("make", [lambda: L2Plugin(0.1), lambda: SIPlugin(2.0)], ids=["L2", "SI"])
def test_frozen_weights_in_eight_bits_have_no_importance(make, dtype):
    plugin = make()
    model = Quantised(dtype)
    trained = [p for p in model.parameters() if p.requires_grad]
    strategy = strategy_for(model, [plugin], optimizer=torch.optim.SGD(trained, lr=0.1), eval_every=1, train_epochs=2)
    for experience in class_incremental(2).train_stream:
        strategy.train(experience, eval_streams=[[experience]])
    assert plugin.importance["inner.2.weight"].any()
    assert not plugin.importance["base"].any()
    assert {v.dtype for v in (*plugin.importance.values(), *plugin.anchor.values())} == {torch.float32}
    assert torch.equal(plugin.anchor["base"], parameters_of(model)["base"].float())
