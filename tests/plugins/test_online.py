"""Online streams: an experience split in parts is still one experience to consolidate."""

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets, split_online_stream
from avalanche.benchmarks.scenarios.online import split_continuous_linear_decay_stream
from avalanche.benchmarks.scenarios.supervised import with_classes_timeline
from avalanche.benchmarks.scenarios.task_aware import with_task_labels
from avalanche.benchmarks.utils import concat_datasets
from avalanche.training.supervised import Cumulative, LwF, Naive, OnlineNaive, Replay

from clreg_plugins import EWCPlugin, L2Plugin, SIPlugin, fisher_diagonal
from tests.plugins.digits import (
    MEASURES,
    Counted,
    Growing,
    MultiHead,
    assert_close,
    class_incremental,
    measured,
    mlp,
    parameters_of,
    strategy_for,
    task_incremental,
)

pytestmark = [  # of Avalanche
    pytest.mark.filterwarnings("ignore:Call to deprecated class OnlineNaive"),
    pytest.mark.filterwarnings("ignore:stream generator will be converted to a list"),
]

STRATEGIES = {
    "Naive": (Naive, {}),
    "OnlineNaive": (OnlineNaive, {"train_passes": 2}),
    "Replay": (Replay, {"mem_size": 12}),
    "LwF": (LwF, {"alpha": 1.0, "temperature": 2.0}),
    "Cumulative": (Cumulative, {}),
}


def parts_of(stream, size, access, *, drop_last=False):
    """The parts, as a list, so that each can be trained on by a call of its own."""
    return list(split_online_stream(stream, size, access_task_boundaries=access, drop_last=drop_last, seed=5))


def online_strategy(plugin, name="Naive", model=None):
    kind, options = STRATEGIES[name]
    if name == "OnlineNaive":
        model = model or mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return kind(model=model, optimizer=optimizer, plugins=[plugin], train_mb_size=10, evaluator=None, **options)
    return strategy_for(model or mlp(), [plugin], kind=kind, **options)


# 40 samples an experience: 10 divides it (Avalanche's is_last_subexp then never becomes True), 12 does not
@pytest.mark.parametrize(("size", "n_parts"), [(10, 4), (12, 4), (40, 1), (64, 1)])
@pytest.mark.parametrize("access", [True, False], ids=["boundaries", "no-boundaries"])
@pytest.mark.parametrize("calls", ["one call", "a call for each part"])
def test_once_for_each_origin_experience(plugin, size, n_parts, access, calls):
    stream = class_incremental(3).train_stream
    counted = Counted(plugin)
    strategy = online_strategy(plugin)
    seen = []

    if calls == "one call":
        strategy.train(split_online_stream(stream, size, access_task_boundaries=access, seed=5), eval_streams=[])
    else:
        for part in parts_of(stream, size, access):
            strategy.train(part, eval_streams=[])
            seen.append(plugin.penalty.n_terms)
    assert plugin.penalty.n_terms == len(counted.terms) == 3, f"{len(counted.terms)} consolidations of 3 origins"
    for t, term in enumerate(counted.terms):
        assert term["data"] is stream[t].dataset or len(term["data"]) == len(stream[t].dataset), (
            f"origin {t} was consolidated on {len(term['data'])} samples, not its {len(stream[t].dataset)}"
        )
    if seen:
        expected = [(k + 1) // n_parts for k in range(3 * n_parts)]
        assert seen == expected, f"terms after each part: {seen}, expected {expected}"


@pytest.mark.parametrize("strategy_name", STRATEGIES)
@pytest.mark.parametrize("size", [10, 12])
def test_importance_is_that_of_the_origins_data(plugin_name, plugin, strategy_name, size):
    stream = class_incremental(2).train_stream
    counted = Counted(plugin)
    strategy = online_strategy(plugin, strategy_name)
    for part in parts_of(stream, size, strategy_name != "Cumulative"):
        strategy.train(part, eval_streams=[])
        if len(counted.terms) and plugin_name in MEASURES and "checked" not in counted.terms[-1]:
            expected = measured(plugin_name, strategy.model, stream[len(counted.terms) - 1].dataset)
            what = f"importance of origin {len(counted.terms) - 1}"
            assert_close(counted.terms[-1]["importance"], expected, what=what)
            counted.terms[-1]["checked"] = True
    assert len(counted.terms) == 2, f"{len(counted.terms)} consolidations of 2 origins under {strategy_name}"


def test_omega_runs_on_through_the_parts():
    """Σω grows from part to part, and Ω of the origin is (all of ω)/(Δ² + ξ), Δ since the origin began."""
    stream = class_incremental(2).train_stream
    plugin = SIPlugin(0.0, xi=0.1)
    strategy = online_strategy(plugin)
    counted = Counted(plugin)
    start = parameters_of(strategy.model)
    sums = []
    parts = parts_of(stream, 10, False)
    for part in parts[:4]:
        strategy.train(part, eval_streams=[])
        sums.append(sum(omega.sum().item() for omega in plugin.path_integral.values()))
    assert 0 < sums[0] < sums[1] < sums[2], f"Σω after each part: {sums}"
    assert sums[3] == 0, f"Σω is {sums[3]} after consolidation"
    end = counted.terms[0]["anchor"]
    whole = sum(
        (value * ((end[name] - start[name]) ** 2 + plugin.xi)).sum().item()
        for name, value in counted.terms[0]["importance"].items()
    )
    assert whole > sums[2], f"Σω of the origin is {whole}, but {sums[2]} was there before its last part"


def test_omega_in_parts_is_omega_in_one_piece():
    """The same batches, as one experience or as four parts, give the same Ω."""
    stream = class_incremental(1).train_stream
    parts = parts_of(stream, 10, False)
    by_parts, whole = SIPlugin(1.0), SIPlugin(1.0)
    strategy = online_strategy(by_parts)
    for part in parts:
        strategy.train(part, eval_streams=[])

    joined = concat_datasets([part.dataset for part in parts])
    strategy = strategy_for(mlp(), [whole])
    strategy.train(benchmark_from_datasets(train=[joined]).train_stream[0], eval_streams=[], shuffle=False)
    again = online_strategy(replayed := SIPlugin(1.0))
    for part in parts:
        again.train(part, eval_streams=[], shuffle=False)
    assert_close(replayed.importance, whole.importance, what="Ω")


def test_a_stream_left_early_is_consolidated_when_the_next_origin_begins():
    stream = class_incremental(2).train_stream
    plugin = EWCPlugin(1.0)
    counted = Counted(plugin)
    strategy = online_strategy(plugin)
    parts = parts_of(stream, 10, False)
    for part in parts[:2]:
        strategy.train(part, eval_streams=[])
    left = parameters_of(strategy.model)
    assert plugin.penalty.n_terms == 0
    strategy.train(parts[4], eval_streams=[])
    assert plugin.penalty.n_terms == 1, f"{plugin.penalty.n_terms} terms after origin 0 was left"
    assert_close(counted.terms[0]["anchor"], left, rtol=0, atol=0, what="anchor")
    assert len(counted.terms[0]["data"]) == 40


def test_parts_then_a_plain_experience():
    """A stream may go on with an experience that is not split."""
    stream = class_incremental(2).train_stream
    plugin = L2Plugin(0.1)
    strategy = online_strategy(plugin)
    for part in parts_of(stream, 10, False)[:3]:
        strategy.train(part, eval_streams=[])
    strategy.train(stream[1], eval_streams=[])
    assert plugin.penalty.n_terms == 2, f"{plugin.penalty.n_terms} terms, expected the origin left and the experience"


def test_drop_last_counts_the_parts_that_there_are():
    stream = class_incremental(2).train_stream
    plugin = L2Plugin(0.1)
    strategy = online_strategy(plugin)
    strategy.train(split_online_stream(stream, 12, drop_last=True, seed=5), eval_streams=[])
    assert plugin.penalty.n_terms == 2, f"{plugin.penalty.n_terms} consolidations of 2 origins"


def test_growing_classifier_with_boundaries():
    """With access to boundaries the classifier grows by the origin's classes at its first part."""
    stream = class_incremental(3).train_stream
    plugin = EWCPlugin(1.0)
    strategy = online_strategy(plugin, model=Growing())
    parts = split_online_stream(stream, 10, access_task_boundaries=True, seed=5)
    strategy.train(with_classes_timeline(parts), eval_streams=[])
    assert plugin.penalty.n_terms == 3
    assert plugin.importance["classifier.classifier.weight"].shape == (6, 12)


def test_blurred_boundaries_need_calls_of_consolidate():
    """A stream whose parts come from several experiences has no origin: consolidation is the user's."""
    stream = class_incremental(2).train_stream
    torch.manual_seed(0)
    blurred = split_continuous_linear_decay_stream(stream, 10, iters_per_virtual_epoch=3, beta=4, shuffle=True)
    plugin = EWCPlugin(1.0, consolidation="manual")
    strategy = online_strategy(plugin)
    for k, part in enumerate(blurred):
        strategy.train(part, eval_streams=[])
        if k == 2:
            plugin.consolidate(strategy, part.dataset)
    assert plugin.penalty.n_terms == 1


def test_task_labels_survive_in_parts():
    """An online stream of tasks, with labels put back on, measures importance through the right head."""
    stream = task_incremental(2).train_stream
    plugin = EWCPlugin(1.0)
    counted = Counted(plugin)
    strategy = online_strategy(plugin, model=MultiHead())
    parts = split_online_stream(stream, 10, access_task_boundaries=True, seed=5)
    strategy.train(with_task_labels(with_classes_timeline(parts)), eval_streams=[])
    assert plugin.penalty.n_terms == 2
    first, second = (term["importance"] for term in counted.terms)
    assert first["heads.classifiers.0.classifier.weight"].any(), "head 0 has no importance after task 0"
    assert second["heads.classifiers.1.classifier.weight"].any(), "head 1 has no importance after task 1"
    assert not second["heads.classifiers.0.classifier.weight"].any(), "head 0 is measured on task 1"


def test_an_origin_left_early_is_measured_before_the_model_grows():
    """The classifier has no units for the next origin's classes yet when the one left is measured."""
    stream = class_incremental(2).train_stream
    plugin = EWCPlugin(1.0)
    counted = Counted(plugin)
    strategy = online_strategy(plugin, model=Growing())
    parts = list(with_classes_timeline(split_online_stream(stream, 10, access_task_boundaries=True, seed=5)))
    for part in parts[:2]:
        strategy.train(part, eval_streams=[])
    expected = fisher_diagonal(strategy.model, stream[0].dataset)
    strategy.train(parts[4], eval_streams=[])
    assert_close(counted.terms[0]["importance"], expected, what="Fisher of the origin left")


def test_blurred_boundaries_without_calls_are_warned_of():
    stream = class_incremental(2).train_stream
    blurred = split_continuous_linear_decay_stream(stream, 10, iters_per_virtual_epoch=3, beta=4, shuffle=True)
    plugin = L2Plugin(1.0)
    strategy = online_strategy(plugin)
    with pytest.warns(UserWarning, match=r'call consolidate\(strategy, data\), with consolidation="manual"'):
        strategy.train(next(iter(blurred)), eval_streams=[])
    assert plugin.penalty.n_terms == 0
