"""The plugins in Avalanche's strategies, on class-, task- and domain-incremental streams."""

import pytest
import torch
from avalanche.models import MTSimpleMLP, SimpleMLP, as_multitask
from avalanche.training.supervised import Cumulative, LwF, Naive, Replay
from torch import nn

from tests.plugins.digits import (
    BENCHMARKS,
    MEASURES,
    PLUGINS,
    Counted,
    Growing,
    MultiHead,
    assert_close,
    class_incremental,
    measured,
    mlp,
    strategy_for,
    task_incremental,
    train,
)

STRATEGIES = {
    "Naive": (Naive, {}),
    "Cumulative": (Cumulative, {}),
    "Replay": (Replay, {"mem_size": 12}),
    "LwF": (LwF, {"alpha": 1.0, "temperature": 2.0}),
}
MODELS = {
    ("class", "one head"): mlp,
    ("class", "growing"): Growing,
    ("task", "one head"): mlp,
    ("task", "multi-head"): MultiHead,
    ("task", "as_multitask"): lambda: as_multitask(Named(), "classifier"),
    ("domain", "one head"): mlp,
    ("domain", "growing"): Growing,
}


class Named(nn.Module):
    """A model whose classifier has a name, for ``as_multitask``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.features = nn.Sequential(nn.Linear(64, 12), nn.ReLU())
        self.classifier = nn.Linear(12, 2)

    def forward(self, x):
        """Logits."""
        return self.classifier(self.features(x))


@pytest.mark.parametrize("strategy_name", STRATEGIES)
def test_one_term_an_experience_measured_on_that_experience_alone(plugin_name, plugin, strategy_name):
    kind, options = STRATEGIES[strategy_name]
    stream = class_incremental().train_stream
    counted = Counted(plugin)
    strategy = strategy_for(mlp(), [plugin], kind=kind, **options)
    for t, experience in enumerate(stream):
        strategy.train(experience, eval_streams=[])
        assert plugin.penalty.n_terms == len(counted.terms) == t + 1, (
            f"{plugin.penalty.n_terms} terms after {t + 1} experiences"
        )
        if plugin_name in MEASURES:
            expected = measured(plugin_name, strategy.model, experience.dataset)
            assert_close(counted.terms[-1]["importance"], expected, what=f"importance of experience {t}")


@pytest.mark.parametrize(("scenario", "kind"), MODELS)
def test_every_scenario_and_head(plugin_name, plugin, scenario, kind):
    stream = BENCHMARKS[scenario]().train_stream
    model = MODELS[scenario, kind]()
    counted = Counted(plugin)
    strategy = strategy_for(model, [plugin])
    for experience in stream:
        strategy.train(experience, eval_streams=[])
        if plugin_name in MEASURES:
            expected = measured(plugin_name, strategy.model, experience.dataset)
            assert_close(counted.terms[-1]["importance"], expected, what="importance")
        now = {name: p.detach() for name, p in strategy.model.named_parameters()}
        if plugin_name != "EWC":  # EWC's anchor is the importance-weighted mean of all
            assert_close(plugin.anchor, now, rtol=0, atol=0, what="anchor")
    assert plugin.penalty.n_terms == 3
    total = sum(value.abs().sum().item() for value in plugin.importance.values())
    assert total > 0, f"the importance of all parameters sums to {total}"


def test_one_train_call_on_the_stream_is_one_call_for_each_experience(plugin_name):
    stream = class_incremental().train_stream
    states = []
    for whole in (True, False):
        plugin = PLUGINS[plugin_name]()
        strategy = strategy_for(mlp(), [plugin])
        torch.manual_seed(3)
        if whole:
            strategy.train(stream, eval_streams=[])
        else:
            train(strategy, stream)
        states.append(plugin.importance)
    assert_close(states[0], states[1], rtol=0, atol=0, what="importance")


def test_the_penalty_keeps_the_model_at_the_anchor():
    """The reason for it all: with a strong penalty important parameters move less from then on."""
    distances = []
    for reg_lambda in (0.0, 300.0):
        plugin = PLUGINS["EWC"]()
        plugin.reg_lambda = reg_lambda
        strategy = strategy_for(mlp(), [plugin], lr=0.01, train_epochs=2)
        stream = class_incremental(2).train_stream
        strategy.train(stream[0], eval_streams=[])
        importance, anchor = plugin.importance, {n: v.clone() for n, v in plugin.anchor.items()}
        importance = {n: v.clone() for n, v in importance.items()}
        strategy.train(stream[1], eval_streams=[])
        moved = sum(
            (importance[n] * (p.detach() - anchor[n]) ** 2).sum().item() for n, p in strategy.model.named_parameters()
        )
        distances.append(moved)
    assert distances[1] < 0.2 * distances[0], f"Ω(Δθ)² is {distances[0]:.3e} without and {distances[1]:.3e} with λ"


def test_a_zero_lambda_changes_nothing(plugin_name):
    """With λ = 0 training is that of the strategy without plugin, to the last bit."""
    stream = class_incremental(2).train_stream
    results = []
    for plugins in ([], [PLUGINS[plugin_name]()]):
        for plugin in plugins:
            plugin.reg_lambda = 0.0
        strategy = strategy_for(mlp(), plugins)
        torch.manual_seed(3)
        train(strategy, stream)
        results.append({n: p.detach() for n, p in strategy.model.named_parameters()})
    assert_close(results[1], results[0], rtol=0, atol=0, what="parameters")


# What Avalanche's own tests of its plugins run: benchmarks with and without task labels, evaluation of all
# experiences after (and within) each one, on its own models.


@pytest.mark.parametrize("with_task_labels", [True, False])
@pytest.mark.parametrize("eval_every", [-1, 0, 1])
def test_training_with_evaluation_in_between(plugin, with_task_labels, eval_every):
    benchmark = task_incremental() if with_task_labels else class_incremental()
    torch.manual_seed(1)
    model = (
        MTSimpleMLP(input_size=64, hidden_size=10)
        if with_task_labels
        else SimpleMLP(num_classes=6, input_size=64, hidden_size=10)
    )
    strategy = strategy_for(model, [plugin], eval_every=eval_every, train_epochs=2)
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[benchmark.test_stream])
        before = {name: value.clone() for name, value in plugin.importance.items()}
        strategy.eval(benchmark.test_stream)
        assert_close(
            {name: plugin.importance[name] for name in before},
            before,
            rtol=0,
            atol=0,
            what="importance after evaluation",
        )
    assert plugin.penalty.n_terms == 3
    for name, p in model.named_parameters():
        assert torch.isfinite(p).all(), f"{name} is not finite after training"
        assert plugin.importance[name].shape == p.shape


@pytest.mark.parametrize("eval_every", [0, 1])
def test_evaluation_does_not_change_what_is_learned(plugin_name, eval_every):
    """Evaluation after or within an experience leaves training, and what is consolidated, as it is."""
    benchmark = task_incremental()
    results = []
    for every in (-1, eval_every):
        plugin = PLUGINS[plugin_name]()
        model = MultiHead()
        # all heads from the start, so that their initial weights do not depend on when they appear
        for task in (1, 2):
            model.heads.classifiers[str(task)] = type(model.heads.classifiers["0"])(
                12, 2, masking=False, auto_adapt=False
            )
            model.heads.register_buffer(f"active_units_T{task}", torch.zeros(2, dtype=torch.int8))
        strategy = strategy_for(model, [plugin], eval_every=every, train_epochs=2)
        for experience in benchmark.train_stream:
            strategy.train(experience, eval_streams=[benchmark.test_stream], shuffle=False)
        results.append(plugin.importance)
    assert_close(results[1], results[0], rtol=1e-4, what="importance")
