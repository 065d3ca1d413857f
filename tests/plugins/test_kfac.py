"""What KFACPlugin alone does: factors of each experience, merged at the latest anchor."""

import pytest
import torch
from torch import nn

from clreg_plugins import KFACPlugin, KroneckerPenalty, kronecker_factors
from tests.penalties import assert_equal, written_out
from tests.plugins.digits import (
    Growing,
    MultiHead,
    assert_close,
    class_incremental,
    cnn,
    mlp,
    parameters_of,
    strategy_for,
    task_incremental,
)
from tests.plugins.test_operations import Counting, Parallel


def trained_beside(plugin, model, stream, **options):
    """After each experience, a penalty that is given the factors of a pass of its own."""
    penalty = KroneckerPenalty()
    strategy = strategy_for(model, [plugin], **options)
    for t, experience in enumerate(stream):
        strategy.train(experience, eval_streams=[])
        found = kronecker_factors(
            strategy.model,
            experience.dataset,
            variant=plugin.fisher,
            weight_sharing=plugin.weight_sharing,
            max_width=plugin.max_width,
        )
        weight = plugin.reg_lambda[t] if isinstance(plugin.reg_lambda, tuple) else 1.0
        penalty.grow(dict(strategy.model.named_parameters()))
        penalty.recenter(found, parameters_of(strategy.model), keep=plugin.gamma, weight=weight)
        yield strategy, penalty, found


@pytest.mark.parametrize("options", [{"gamma": 0.5}, {"fisher": "empirical"}, {"max_width": 20}])
@pytest.mark.parametrize("kind", ["mlp", "cnn", "grown", "heads"])
def test_each_experience_adds_the_factors_of_its_own_data(kind, options):
    model = {"mlp": mlp, "cnn": cnn, "grown": Growing, "heads": MultiHead}[kind]()
    benchmark = task_incremental() if kind == "heads" else class_incremental(image=kind == "cnn")
    plugin = KFACPlugin(20.0, **options)
    for strategy, expected, found in trained_beside(plugin, model, benchmark.train_stream):
        assert plugin.paths == found.paths
        theta = {n: p + 0.1 for n, p in parameters_of(strategy.model).items()}
        value, want = (p.value(theta).item() for p in (plugin.penalty, expected))
        assert value == pytest.approx(want, rel=1e-5)
        assert value == pytest.approx(written_out(plugin.penalty, theta, 2.0).item(), rel=1e-5)
        assert_close(plugin.importance, expected.diagonal(), what="importance")
        assert_close(plugin.anchor, parameters_of(strategy.model), rtol=0, atol=0, what="anchor")
    merges = {name: len(layer.merge_errors) for name, layer in plugin.penalty.layers.items()}
    once = {name for name in merges if name.startswith("heads")}  # a head has the factors of its own task alone
    assert merges == {name: 0 if name in once else 2 for name in merges}
    if kind == "cnn" and options != {"max_width": 20}:
        assert set(merges) == {"0", "5"}
        assert {n for n, path in plugin.paths.items() if path != "factors"} == {"1.weight", "1.bias"}


def test_one_lambda_for_each_experience_is_folded_in():
    plugin = KFACPlugin([3.0, 0.5, 20.0], gamma=0.5)
    for strategy, expected, _ in trained_beside(plugin, mlp(), class_incremental().train_stream):
        theta = {n: p + 0.1 for n, p in parameters_of(strategy.model).items()}
        loss = plugin._scale / 2 * plugin.penalty.value(theta).item()
        assert loss == pytest.approx(expected.value(theta).item() / 2, rel=1e-5)


def test_a_layer_that_loses_its_factors_keeps_what_it_has():
    """It is called twice from the second experience on: its factors decay, and a diagonal adds up beside them."""

    class Repeated(nn.Module):
        calls = 1

        def __init__(self):
            super().__init__()
            self.first, self.inner, self.last = nn.Linear(64, 12), nn.Linear(12, 12), nn.Linear(12, 6)

        def forward(self, x):
            h = self.first(x).relu()
            for _ in range(self.calls):
                h = self.inner(h).relu()
            return self.last(h)

    model, plugin = Repeated(), KFACPlugin(1.0, gamma=0.9)
    for strategy, expected, _ in trained_beside(plugin, model, class_incremental().train_stream):
        theta = {n: p + 0.1 for n, p in parameters_of(strategy.model).items()}
        assert plugin.penalty.value(theta).item() == pytest.approx(expected.value(theta).item(), rel=1e-5)
        assert plugin.paths["inner.weight"] == ("factors" if model.calls == 1 else "vectorised")
        model.calls = 2
    assert plugin.penalty.importance["inner.weight"].any()


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_frozen_part_of_a_layer_pulls_at_the_other(part):
    """The gradient of the bias of a frozen weight that another has moved depends on where it stands."""
    model, plugin = mlp(), KFACPlugin(20.0)
    strategy = strategy_for(model, [plugin])
    stream = class_incremental().train_stream
    strategy.train(stream[0], eval_streams=[])
    getattr(model[0], part).requires_grad_(False)
    seen = []
    before_backward = plugin.before_backward

    def compare(strategy, **kwargs):
        trained = [p for p in model.parameters() if p.requires_grad]
        task = torch.autograd.grad(strategy.loss, trained, retain_graph=True)
        before_backward(strategy, **kwargs)
        whole = torch.autograd.grad(strategy.loss, trained, retain_graph=True)
        theta = dict(model.named_parameters())
        penalty = torch.autograd.grad(written_out(plugin.penalty, theta, plugin.reg_lambda), trained)
        names = [n for n, p in model.named_parameters() if p.requires_grad]
        got = {n: w - t for n, w, t in zip(names, whole, task, strict=True)}
        assert_close(got, dict(zip(names, (p.float() for p in penalty), strict=True)), rtol=1e-3, atol=1e-5)
        seen.append(max(p.abs().max().item() for p in penalty))

    plugin.before_backward = compare
    with torch.no_grad():  # of the frozen part, by hand
        getattr(model[0], part).add_(0.1)
    strategy.train(stream[1], eval_streams=[])
    assert max(seen) > 1e-2
    names = plugin.penalty.layers["0"].factors.parameters
    assert set(names) == {"0.weight", "0.bias"}, "the frozen part's curvature of the first experience is gone"
    getattr(model[0], part).requires_grad_(True)
    strategy.train(stream[2], eval_streams=[])
    assert len(plugin.penalty.layers["0"].merge_errors) == 2


def test_memory_and_operations_of_a_step_are_constant_over_fifty_experiences():
    plugin = KFACPlugin(1.0, fisher="empirical")
    strategy, parts = strategy_for(mlp(10), [plugin], train_mb_size=20), class_incremental(5, per_class=10).train_stream
    held, counts = [], []
    for t in range(50):
        strategy.train(parts[t % 5], eval_streams=[])
        state = plugin.state_dict()["penalty"]
        tensors = [x for layer in state["layers"].values() for x in (layer["inputs"], layer["outputs"])]
        tensors += [x for kind in ("importance", "anchor", "constant") for x in state[kind].values()]
        held.append(sum(x.nbytes for x in tensors))
        with Counting() as step:
            plugin.penalty.step(plugin._parameters, 1.0, plugin._work)
        counts.append(step.counts)
    assert set(held) == {held[0]}, f"bytes held: {held}"
    assert all(count == counts[1] for count in counts[1:])
    assert plugin.penalty.n_terms == 50


def test_operations_of_a_step_grow_by_the_layer():
    def operations(layers):
        plugin, model = KFACPlugin(1.0), Parallel(layers)
        strategy_for(model, [plugin]).train(class_incremental(1).train_stream, eval_streams=[])
        with Counting() as step:
            plugin.penalty.step(plugin._parameters, 1.0, plugin._work)
        return step.counts

    three, thirty_one = operations(3), operations(31)
    assert thirty_one["bmm"] == 2 * 31
    added = sum((thirty_one - three).values()) / 28
    assert added <= 10, f"{added} operations a layer: {dict(thirty_one)}"


def test_a_factor_too_wide_keeps_the_diagonal_and_says_so():
    plugin = KFACPlugin(1.0, max_width=20)
    strategy_for(mlp(), [plugin]).train(class_incremental(1).train_stream, eval_streams=[])
    assert plugin.paths == {"0.weight": "rule", "0.bias": "rule", "2.weight": "factors", "2.bias": "factors"}
    assert set(plugin.penalty.layers) == {"2"}
    assert set(plugin.penalty.importance) == {"0.weight", "0.bias"}


def test_a_failed_consolidation_leaves_penalty_and_paths():
    plugin = KFACPlugin(1.0, consolidation="manual")
    model, data = mlp(), class_incremental(1).train_stream[0].dataset
    strategy = strategy_for(model, [plugin])
    plugin.consolidate(strategy, data)
    before, paths = plugin.state_dict(), plugin.paths
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"not finite|must be finite"):
        plugin.consolidate(strategy, data)
    assert_equal(plugin.state_dict(), before, "state")
    assert plugin.paths is paths
