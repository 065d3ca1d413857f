"""What would fail after an experience may be tried before it."""

import pytest

from clreg_plugins import L2Plugin
from tests.plugins.digits import assert_identical, class_incremental, mlp, strategy_for
from tests.plugins.test_online import parts_of


class Rehearsing(L2Plugin):
    """Notes what there is at each rehearsal; the third one fails."""

    def __init__(self, **options):
        super().__init__(0.1, **options)
        self.seen = []

    def _rehearse(self, strategy):
        self.seen.append((strategy.experience.current_experience, self.penalty.n_terms, sorted(self._parameters)))
        if len(self.seen) == 3:
            raise ValueError("no third experience")


def test_before_each_experience_with_the_parameters_bound():
    plugin = Rehearsing()
    strategy = strategy_for(mlp(), [plugin])
    stream = class_incremental(3).train_stream
    strategy.train(stream[:2], eval_streams=[])
    names = ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert plugin.seen == [(0, 0, names), (1, 1, names)]
    before = plugin.state_dict()
    with pytest.raises(ValueError, match="no third experience"):
        strategy.train(stream[2], eval_streams=[])
    assert_identical(plugin.state_dict(), before)


def test_once_for_all_parts_of_an_online_experience():
    plugin = Rehearsing()
    for part in parts_of(class_incremental(2).train_stream, 10, False):
        strategy_for(mlp(), [plugin]).train(part, eval_streams=[])
    assert [terms for _, terms, _ in plugin.seen] == [0, 1]


def test_not_where_the_user_consolidates():
    plugin = Rehearsing(consolidation="manual")
    strategy_for(mlp(), [plugin]).train(class_incremental(2).train_stream, eval_streams=[])
    assert plugin.seen == []
