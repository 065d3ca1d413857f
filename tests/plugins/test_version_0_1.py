"""What version 0.1 wrote within the second of two experiences in parts continues in this version."""

import gzip
import io
import pickle
from pathlib import Path

import pytest
import torch

from clreg_plugins import EWCPlugin
from tests.plugins.digits import PLUGINS, assert_close, assert_identical, class_incremental, strategy_for
from tests.plugins.test_online import parts_of

# trained on six of eight parts, 64 inputs and 4 classes: the plugin pickled, and its state_dict()
WRITTEN = pickle.loads(gzip.decompress(Path(__file__).with_name("version_0_1.pickle.gz").read_bytes()))


def unpickled(name):
    return pickle.loads(WRITTEN[name]["pickle"])


def from_state(name):
    plugin = PLUGINS[name]()
    plugin.load_state_dict(WRITTEN[name]["state"])
    return plugin


@pytest.mark.parametrize("load", [unpickled, from_state])
@pytest.mark.parametrize("plugin_name", WRITTEN)
def test_a_plugin_goes_on(plugin_name, load):
    plugin = load(plugin_name)
    assert_identical(plugin.state_dict(), WRITTEN[plugin_name]["state"])
    assert repr(plugin) == repr(PLUGINS[plugin_name]())
    assert vars(plugin).keys() == vars(PLUGINS[plugin_name]()).keys()
    torch.manual_seed(0)
    strategy = strategy_for(torch.nn.Linear(64, 4), [plugin])
    for part in parts_of(class_incremental(2).train_stream, 10, False)[6:]:
        strategy.train(part, eval_streams=[])
    assert plugin.penalty.n_terms == 2, "the second experience was not consolidated"


class Mine(EWCPlugin):
    """A method of a user's own, with a constructor of its own."""

    def __init__(self, strength):
        super().__init__(strength, n_samples=7)


def test_a_subclass_keeps_its_attributes():
    class Recorded(pickle.Unpickler):
        def find_class(self, module, name):
            return Mine if name == "EWCPlugin" else super().find_class(module, name)

    plugin = Recorded(io.BytesIO(WRITTEN["EWC"]["pickle"])).load()
    assert type(plugin) is Mine
    assert plugin.paths == unpickled("EWC").paths != {}
    assert_close(plugin.importance, unpickled("EWC").importance, rtol=0, atol=0)
    assert plugin.reading.options == EWCPlugin(1.0).reading.options
