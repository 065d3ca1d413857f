"""Avalanche's own checkpoints, with every plugin."""

import pytest
import torch
from avalanche.checkpointing import maybe_load_checkpoint, save_checkpoint

from tests.plugins.digits import (
    PLUGINS,
    assert_identical,
    class_incremental,
    mlp,
    parameters_of,
    strategy_for,
)

pytestmark = pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")


# Avalanche's loader calls torch.load with dill and without weights_only, which torch refuses by default
@pytest.fixture(autouse=True)
def _trusted(monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


def strategy_with(plugin):
    """Plain gradient descent, whose optimizer has no state to lose."""
    model = mlp()
    return strategy_for(model, [plugin], optimizer=torch.optim.SGD(model.parameters(), lr=0.05))


def test_a_strategy_goes_on_from_avalanches_checkpoint(plugin_name, tmp_path):
    """Optimizers cannot be pickled by Avalanche today: they are left out and made again."""
    stream = class_incremental().train_stream
    torch.manual_seed(7)
    whole = strategy_with(PLUGINS[plugin_name]())
    torch.manual_seed(7)
    for experience in stream:
        whole.train(experience, eval_streams=[])
    expected = {"model": parameters_of(whole.model), "plugin": whole.plugins[0].state_dict()}

    first = strategy_with(PLUGINS[plugin_name]())
    torch.manual_seed(7)
    first.train(stream[0], eval_streams=[])
    save_checkpoint(first, tmp_path / "run.ckpt", exclude=["optimizer"])
    rng = torch.get_rng_state()

    second = strategy_with(PLUGINS[plugin_name]())
    second, done = maybe_load_checkpoint(second, tmp_path / "run.ckpt")
    assert done == 1, f"Avalanche says that {done} experiences are done"
    second.optimizer = torch.optim.SGD(second.model.parameters(), lr=0.05)
    second.optimized_param_id = None
    torch.set_rng_state(rng)
    for experience in stream[done:]:
        second.train(experience, eval_streams=[])
    plugin = second.plugins[0]
    assert type(plugin) is type(whole.plugins[0])
    assert_identical({"model": parameters_of(second.model), "plugin": plugin.state_dict()}, expected)


def test_a_checkpoint_holds_no_data(plugin_name, tmp_path):
    """Two sizes of experience, one size of file: the plugin drags no dataset along, mid-origin either."""
    from tests.plugins.test_online import parts_of

    sizes = []
    for per_class in (20, 120):
        strategy = strategy_with(PLUGINS[plugin_name]())
        parts = parts_of(class_incremental(1, per_class=per_class).train_stream, 10, False)
        for part in parts[:2]:
            strategy.train(part, eval_streams=[])
        save_checkpoint(strategy, tmp_path / "run.ckpt", exclude=["optimizer"])
        sizes.append((tmp_path / "run.ckpt").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 4096, f"checkpoints of {sizes} bytes"
