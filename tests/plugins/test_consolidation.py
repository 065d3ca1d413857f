"""How each method joins an experience's importance to the past, against the formulas written out."""

import pytest
import torch
from avalanche.core import SupervisedPlugin
from torch.nn.modules.module import register_module_forward_pre_hook

from clreg_plugins import EWCPlugin, KFACPlugin, L2Plugin, MASPlugin, OnlineEWCPlugin, fisher_diagonal
from tests.plugins.digits import (
    MEASURES,
    PLUGINS,
    Counted,
    assert_close,
    assert_identical,
    class_incremental,
    measured,
    mlp,
    parameters_of,
    strategy_for,
)


def terms_of(plugin, experiences=3, **options):
    """Train, and return the importance and parameters at the end of each experience."""
    counted = Counted(plugin)
    strategy = strategy_for(mlp(), [plugin], **options)
    strategy.train(class_incremental(experiences).train_stream, eval_streams=[])
    return counted.terms, strategy


def weighted(terms, weights):
    """Σ_t w_t F_t."""
    names = terms[0]["importance"]
    return {n: sum(w * t["importance"][n] for w, t in zip(weights, terms, strict=True)) for n in names}


def test_separate_penalties_are_the_explicit_sum_over_experiences():
    """Σ_t Σ_i F_t,i (θ_i − θ*_t,i)² at several θ, its gradient too, in float64."""
    plugin = EWCPlugin(7.0)
    terms, _ = terms_of(plugin)
    for seed in range(3):
        theta = {n: p + 0.1 * torch.randn_like(p) for n, p in parameters_of(mlp(seed=seed)).items()}
        explicit_theta = {n: p.double().requires_grad_() for n, p in theta.items()}
        explicit = sum(
            (t["importance"][n].double() * (p - t["anchor"][n].double()) ** 2).sum()
            for t in terms
            for n, p in explicit_theta.items()
        )
        value = plugin.penalty.value(theta).item()
        assert value == pytest.approx(explicit.item(), rel=1e-5), f"{value} but the explicit sum is {explicit.item()}"
        leaves = {n: p.clone().requires_grad_() for n, p in theta.items()}
        plugin.penalty.loss_term(leaves, plugin.reg_lambda).backward()
        (7.0 / 2 * explicit).backward()
        assert_close(
            {n: p.grad for n, p in leaves.items()},
            {n: p.grad for n, p in explicit_theta.items()},
            what="gradient",
        )
    assert_close(plugin.importance, weighted(terms, [1, 1, 1]), what="Σ F_t")


def test_one_lambda_for_each_experience_is_folded_in():
    lambdas = [3.0, 0.5, 20.0]
    plugin = EWCPlugin(lambdas)
    terms, _ = terms_of(plugin)
    assert_close(plugin.importance, weighted(terms, lambdas), what="Σ λ_t F_t")
    theta = parameters_of(mlp(seed=5))
    explicit = sum(
        w / 2 * (t["importance"][n].double() * (p - t["anchor"][n]).double() ** 2).sum().item()
        for w, t in zip(lambdas, terms, strict=True)
        for n, p in theta.items()
    )
    loss = plugin._scale / 2 * plugin.penalty.value(theta).item()
    assert loss == pytest.approx(explicit, rel=1e-5), f"the penalty is {loss}, the explicit sum {explicit}"


def test_equal_lambdas_are_one_lambda():
    """A sequence of one value gives the training of that value."""
    results = []
    for reg_lambda in (5.0, [5.0, 5.0, 5.0]):
        torch.manual_seed(3)
        _, strategy = terms_of(EWCPlugin(reg_lambda))
        results.append(parameters_of(strategy.model))
    assert_close(results[1], results[0], rtol=1e-5, what="parameters")


@pytest.mark.parametrize("kind", [EWCPlugin, OnlineEWCPlugin, KFACPlugin])
def test_lambdas_that_run_out_stop_training_at_the_start_of_that_experience(kind):
    plugin = kind([1.0, 2.0])
    strategy = strategy_for(mlp(), [plugin])
    stream = class_incremental().train_stream
    strategy.train(stream[:2], eval_streams=[])
    before, theta = plugin.state_dict(), parameters_of(strategy.model)
    with pytest.raises(ValueError, match=r"reg_lambda has 2 values, but this is experience number 3"):
        strategy.train(stream[2], eval_streams=[])
    assert_identical(plugin.state_dict(), before)
    assert_identical(parameters_of(strategy.model), theta)


@pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0])
def test_online_importance_decays_by_gamma(gamma):
    plugin = OnlineEWCPlugin(3.0, gamma=gamma)
    terms, strategy = terms_of(plugin)
    assert_close(plugin.importance, weighted(terms, [gamma**2, gamma, 1]), what="Σ γ^(T−t) F_t")
    assert_close(plugin.anchor, parameters_of(strategy.model), rtol=0, atol=0, what="anchor")


def test_online_with_a_lambda_for_each_experience():
    plugin = OnlineEWCPlugin([2.0, 3.0, 5.0], gamma=0.5)
    terms, _ = terms_of(plugin)
    assert_close(plugin.importance, weighted(terms, [0.5, 1.5, 5.0]), what="Ω")


@pytest.mark.parametrize(("accumulate", "weights"), [("average", [1 / 3] * 3), ("sum", [1.0] * 3)])
def test_mas_averages_or_sums(accumulate, weights):
    plugin = MASPlugin(1.0, accumulate=accumulate)
    terms, strategy = terms_of(plugin)
    assert_close(plugin.importance, weighted(terms, weights), what="Ω")
    assert_close(plugin.anchor, parameters_of(strategy.model), rtol=0, atol=0, what="anchor")


def test_l2_is_one_everywhere_at_the_latest_parameters():
    plugin = L2Plugin(0.1)
    _, strategy = terms_of(plugin)
    assert_close(plugin.importance, {n: torch.ones_like(p) for n, p in parameters_of(strategy.model).items()}, what="Ω")
    assert_close(plugin.anchor, parameters_of(strategy.model), rtol=0, atol=0, what="anchor")


def test_state_does_not_grow_with_the_experiences(plugin):
    """Memory after five experiences is memory after one, and its names are the model's."""
    strategy = strategy_for(mlp(10), [plugin])
    sizes = []
    for experience in class_incremental(5, per_class=10).train_stream:
        strategy.train(experience, eval_streams=[])
        state = plugin.state_dict()
        sizes.append(
            sum(v.numel() for group in ("importance", "anchor", "constant") for v in state["penalty"][group].values())
        )
    assert len(set(sizes)) == 1, f"numbers held after each experience: {sizes}"
    names = [n for n, _ in strategy.model.named_parameters()]
    assert sorted(plugin.importance) == sorted(plugin.anchor) == sorted(names)


# ------------------------------------------------------------------ consolidation by hand


def test_manual_consolidation_waits_for_the_call(plugin_name):
    plugin = PLUGINS[plugin_name](consolidation="manual")
    counted = Counted(plugin)
    strategy = strategy_for(mlp(), [plugin])
    stream = class_incremental().train_stream
    strategy.train(stream, eval_streams=[])
    assert plugin.penalty.n_terms == 0, "consolidated without being asked"
    plugin.consolidate(strategy, stream[1].dataset)
    assert plugin.penalty.n_terms == 1
    if plugin_name in MEASURES:
        expected = measured(plugin_name, strategy.model, stream[1].dataset)
        assert_close(counted.terms[0]["importance"], expected, what="importance")


@pytest.mark.parametrize("name", MEASURES)
def test_manual_consolidation_on_a_loader_of_ones_own(name):
    plugin = PLUGINS[name](consolidation="manual")
    strategy = strategy_for(mlp(), [plugin])
    stream = class_incremental(2).train_stream
    strategy.train(stream[0], eval_streams=[])
    loader = torch.utils.data.DataLoader(stream[0].dataset.eval(), batch_size=7)
    plugin.consolidate(strategy, loader)
    assert_close(plugin.importance, measured(name, strategy.model, stream[0].dataset), what="importance")


@pytest.mark.parametrize("name", MEASURES)
def test_manual_consolidation_without_data_or_experience(name):
    plugin = PLUGINS[name](consolidation="manual")
    strategy = strategy_for(mlp(), [plugin])
    strategy.train(class_incremental(1).train_stream, eval_streams=[])
    before = plugin.state_dict()
    with pytest.raises(ValueError, match="no data, and the strategy has no current experience"):
        plugin.consolidate(strategy)
    assert_identical(plugin.state_dict(), before)


def test_consolidation_by_a_trigger_of_ones_own(plugin_name):
    """Another plugin consolidates within an experience, on its data: the penalty acts from then on."""

    class AtIteration(SupervisedPlugin):
        def after_training_iteration(self, strategy, **kwargs):
            if strategy.clock.train_iterations == 2:
                plugin.consolidate(strategy)

    plugin = PLUGINS[plugin_name](consolidation="manual")
    strategy = strategy_for(mlp(), [plugin, AtIteration()])
    strategy.train(class_incremental(2).train_stream, eval_streams=[])
    assert plugin.penalty.n_terms == 1
    assert any(v.any() for v in plugin.importance.values())


def test_only_the_samples_asked_for():
    """``n_samples`` are drawn from the experience, by the plugin's own seed, again in each experience."""
    seen = []

    class Seen(EWCPlugin):
        def _measure(self, strategy, data):
            rows = []
            # on all modules: what hangs on the model is put back as it was
            handle = register_module_forward_pre_hook(lambda module, args: rows.append(args[0].clone()))
            importance = super()._measure(strategy, data)
            handle.remove()
            seen.append(max(len(r) for r in rows))
            return importance

    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(3)
        plugin = Seen(1.0, n_samples=8, seed=seed)
        strategy = strategy_for(mlp(), [plugin])
        strategy.train(class_incremental(1).train_stream, eval_streams=[], shuffle=False)
        results.append(plugin.importance)
    assert set(seen) == {8}, f"samples measured on: {seen}"
    assert_close(results[1], results[0], rtol=0, atol=0, what="importance with the same seed")
    assert not torch.equal(results[2]["2.weight"], results[0]["2.weight"]), "another seed draws the same samples"


def test_every_experience_has_random_numbers_of_its_own():
    """The first experience's draws are those of ``seed``; the second's are others."""
    plugin = EWCPlugin(1.0, fisher="sample", seed=4)
    counted = Counted(plugin)
    strategy = strategy_for(mlp(), [plugin])
    stream = class_incremental(2).train_stream
    same = []
    for t in (0, 1):
        strategy.train(stream[t], eval_streams=[])
        again = fisher_diagonal(strategy.model, stream[t].dataset, variant="sample", seed=4)
        same.append(all(torch.allclose(again[n], v) for n, v in counted.terms[t]["importance"].items()))
    assert same == [True, False], f"drawn with the seed itself in experience 0 and 1: {same}"
