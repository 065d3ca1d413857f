"""SI when weights change outside the optimizer: restored by early stopping, restored, averaged or clipped by others."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EarlyStoppingPlugin, EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn

from clreg_plugins import SIPlugin
from clreg_plugins.outside_changes import _fingerprint
from tests.plugins.digits import (
    Growing,
    assert_close,
    assert_identical,
    class_incremental,
    mlp,
    parameters_of,
    strategy_for,
)
from tests.plugins.test_online import parts_of
from tests.plugins.test_si_scaled import AccumulatingStrategy


class Recorded(Naive):
    """Keeps every step's −g·Δθ, with g by another call of autograd and Δθ from copies around the optimizer's step."""

    def __init__(self, **options):
        super().__init__(**options)
        self.steps = []

    def backward(self):
        """The task's gradient at this θ, on this minibatch."""
        parameters = dict(self.model.named_parameters())
        again = F.cross_entropy(self.model(self.mb_x), self.mb_y)
        self.g = dict(zip(parameters, torch.autograd.grad(again, list(parameters.values())), strict=True))
        super().backward()

    def optimizer_step(self):
        """Δθ as made."""
        before = parameters_of(self.model)
        super().optimizer_step()
        self.steps.append(
            {n: -(self.g[n].double() * (p.detach() - before[n]).double()) for n, p in self.model.named_parameters()}
        )


def strategy_with(plugins, model=None, kind=Recorded, lr=0.1, **options):
    """Plain gradient descent: unlike momentum it is the same before and after weights are put back."""
    model = model or mlp()
    return strategy_for(model, plugins, kind=kind, optimizer=torch.optim.SGD(model.parameters(), lr=lr), **options)


def importance_of(steps, before, after, xi):
    """Σ steps / (Δ² + ξ)."""
    return {n: (sum(s[n] for s in steps) / ((after[n] - before[n]).double() ** 2 + xi)).float() for n in before}


def clipped_sum(*terms):
    """Ω of one experience after another, clipped as totals."""
    total = {n: torch.zeros_like(v) for n, v in terms[0].items()}
    for term in terms:
        total = {n: (total[n] + term[n]).clamp(min=0) for n in total}
    return total


# ------------------------------------------------------------------ early stopping


class Scripted(EvaluationPlugin):
    """An evaluator whose loss is read from a list, by the strategy's epoch or iteration."""

    def __init__(self, losses, counter):
        super().__init__(loggers=[])
        self.losses, self.counter, self.strategy = losses, counter, None

    def get_last_metrics(self):
        """The loss of now."""
        return {"Loss_Stream/eval_phase/test_stream": self.losses[getattr(self.strategy.clock, self.counter)]}


COUNTERS = {"epoch": "train_exp_epochs", "iteration": "train_exp_iterations"}
LOSSES = [9, 5, 6, 3, 4, 2, 6, 7, 8, 8, 8, 8]  # best after 5, with a patience of 3 noticed after 8
RISING = list(range(1, 13))  # best before anything was trained


def stopped_early(plugin, mode, order, losses, model=None, **options):
    """A strategy whose early stopper puts weights back, and the stopper."""
    stopper = EarlyStoppingPlugin(3, "test_stream", "Loss_Stream", "min", peval_mode=mode)
    plugins = [plugin, stopper] if order == "in front" else [stopper, plugin]
    evaluator = Scripted(losses, COUNTERS[mode])
    strategy = strategy_with(plugins, model, train_epochs=12, evaluator=evaluator, **options)
    evaluator.strategy = strategy
    return strategy, stopper


@pytest.mark.parametrize("order", ["in front", "behind"])
@pytest.mark.parametrize("losses", [LOSSES, RISING], ids=["later", "at-once"])
@pytest.mark.parametrize("mode", ["epoch", "iteration"])
def test_early_stopping_leaves_the_path_to_the_weights_put_back(mode, losses, order):
    """The steps up to the best weights; by iteration, then the one that Avalanche makes before it stops."""
    plugin, terms = SIPlugin(5.0, xi=0.1), []
    strategy, stopper = stopped_early(plugin, mode, order, losses)
    for experience in class_incremental(2).train_stream:
        strategy.steps, before = [], parameters_of(strategy.model)
        strategy.train(experience, eval_streams=[])
        assert stopper.best_step == losses.index(min(losses))
        made = stopper.best_step * (len(experience.dataset) // 10 if mode == "epoch" else 1)
        counted = strategy.steps[:made] + (strategy.steps[-1:] if mode == "iteration" else [])
        assert len(counted) < len(strategy.steps), "no step was discarded"
        after = parameters_of(strategy.model)
        counted = counted or [{n: torch.zeros_like(v, dtype=torch.float64) for n, v in after.items()}]
        terms.append(importance_of(counted, before, after, plugin.xi))
        assert_close(plugin.importance, clipped_sum(*terms), rtol=2e-3, what=f"Ω after {len(terms)}")


@pytest.mark.parametrize("order", ["in front", "behind"])
def test_early_stopping_equals_a_run_that_ends_at_the_best_epoch(order):
    """To the last bit, in every experience of a stream, with running averages as well as parameters."""

    def model():
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 6))

    stopped, exact = SIPlugin(5.0), SIPlugin(5.0)
    first, stopper = stopped_early(stopped, "epoch", order, LOSSES, model(), kind=Naive)
    second = strategy_with([exact], model(), kind=Naive, train_epochs=5)
    for experience in class_incremental(2).train_stream:
        for strategy in (first, second):
            torch.manual_seed(3)
            strategy.train(experience, eval_streams=[])
        assert stopper.best_step == 5
        assert_identical(parameters_of(first.model), parameters_of(second.model))
        assert_identical(stopped.state_dict(), exact.state_dict())


def test_without_a_stopper_nothing_is_kept():
    plugin = SIPlugin(1.0)
    kept = []

    class Look(SupervisedPlugin):
        def after_update(self, strategy, **kwargs):
            kept.append(len(plugin._outside._best))

    strategy_with([plugin, Look()]).train(class_incremental(1).train_stream, eval_streams=[])
    assert kept == [0] * 4


# ----------------------------------------------------- weights that others change


def halve(model):
    """Through ``data``, of which autograd knows nothing."""
    for p in model.parameters():
        p.data.mul_(0.5)


def halve_in_place(model):
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)


def halve_one(model):
    model[2].bias.data.mul_(0.5)


def load(model):
    model.load_state_dict({name: value * 0.5 for name, value in model.state_dict().items()})


class At(SupervisedPlugin):
    """Does something to the model at a callback, ``times`` times in each experience."""

    def __init__(self, callback, change, times=1):
        super().__init__()
        self.change, self.times = change, times
        setattr(self, callback, self.act)

    def before_training_exp(self, strategy, **kwargs):
        """Start again."""
        self.left = self.times

    def act(self, strategy, **kwargs):
        """As often as asked for."""
        if self.left:
            self.left -= 1
            self.change(strategy.model)


EVERY_TIME = 10**6
CHANGES = {
    "averaged as training ends": ("after_training_exp", halve, 1),
    "averaged between epochs": ("after_training_epoch", halve, 1),
    "averaged after each epoch": ("after_training_epoch", halve_one, EVERY_TIME),
    "restored before an epoch": ("before_training_epoch", load, 2),
    "written before an epoch": ("before_training_epoch", halve, 2),
    "restored during an epoch": ("after_training_iteration", load, 3),
    "clipped in place": ("after_training_iteration", halve_in_place, EVERY_TIME),
    "clipped through data": ("after_training_iteration", halve, EVERY_TIME),
    "clipped before each step": ("before_forward", halve_one, EVERY_TIME),
}


@pytest.mark.parametrize("batch", [10, 40], ids=["four steps an epoch", "one step an epoch"])
@pytest.mark.parametrize("order", ["in front", "behind"])
@pytest.mark.parametrize("change", CHANGES)
def test_other_changes_are_said_once_and_the_path_is_the_optimizers(change, order, batch):
    """ω is the sum over all steps, Δ is to the weights as they are at consolidation; one warning an experience.

    A change behind the last consolidation is part of the next experience: of its Δ, and of its warning.
    """
    callback, how, times = CHANGES[change]
    plugin, terms = SIPlugin(5.0, xi=0.1), []
    other = At(callback, how, times)
    strategy = strategy_with([other, plugin] if order == "in front" else [plugin, other], train_epochs=3)
    strategy.train_mb_size = batch
    late = callback == "after_training_exp" and order == "behind"
    for t, experience in enumerate(class_incremental(3).train_stream):
        strategy.steps, before = [], plugin.anchor or parameters_of(strategy.model)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            strategy.train(experience, eval_streams=[])
        said = [str(w.message) for w in caught if "outside the optimizer" in str(w.message)]
        expected = 0 if late and t == 0 else 1
        assert len(said) == expected, f"{len(said)} warnings in experience {t}, expected {expected}"
        assert all("ω keeps the optimizer's whole path" in m and "load the state_dict()" in m for m in said), said
        terms.append(importance_of(strategy.steps, before, plugin.anchor, plugin.xi))
        assert_close(plugin.importance, clipped_sum(*terms), rtol=2e-3, what=f"Ω after {t + 1}")
        if not late:
            assert_identical(plugin.anchor, parameters_of(strategy.model))


@pytest.mark.parametrize(
    ("change", "order"),
    [
        (CHANGES["averaged as training ends"], "in front"),
        (CHANGES["averaged as training ends"], "behind"),
        (("after_update", halve, EVERY_TIME), "behind"),
    ],
    ids=["averaged-in front", "averaged-behind", "clipped-behind"],
)
def test_where_the_last_update_of_an_epoch_cannot_be_known(change, order):
    """Steps are made at every fourth minibatch, by a loop of the user's own."""
    plugin = SIPlugin(1.0)
    other = At(*change)
    plugins = [other, plugin] if order == "in front" else [plugin, other]
    strategy = strategy_with(plugins, kind=AccumulatingStrategy, train_epochs=2)
    strategy.train_mb_size = 5
    stream = class_incremental(2).train_stream
    with pytest.warns(UserWarning, match="weights changed outside the optimizer's steps") as caught:
        strategy.train(stream, eval_streams=[])
    late = change[0] == "after_training_exp" and order == "behind"
    assert sum("outside" in str(w.message) for w in caught) == (1 if late else 2)


class Restoring(SupervisedPlugin):
    """Puts the weights of two epochs back as training ends, with or without the plugin's state of then."""

    def __init__(self, plugin, states):
        super().__init__()
        self.plugin, self.states = plugin, states

    def after_training_epoch(self, strategy, **kwargs):
        """Keep."""
        if strategy.clock.train_exp_epochs == 1:  # the clock is behind: two epochs were made
            self.weights, self.learned = copy.deepcopy(strategy.model.state_dict()), self.plugin.state_dict()

    def after_training_exp(self, strategy, **kwargs):
        """Restore."""
        for state in self.states:
            if state == "plugin":
                self.plugin.load_state_dict(self.learned)
            else:
                strategy.model.load_state_dict(self.weights)


@pytest.mark.parametrize("states", [["weights", "plugin"], ["plugin", "weights"]], ids="-".join)
def test_weights_and_state_restored_by_the_user_are_the_path_that_ends_there(states):
    """As the warning advises, in either order: no warning, and the numbers of a run of two epochs."""
    restored, exact = SIPlugin(5.0), SIPlugin(5.0)
    first = strategy_with([Restoring(restored, states), restored], kind=Naive, train_epochs=5)
    second = strategy_with([exact], kind=Naive, train_epochs=2)
    for experience in class_incremental(2).train_stream:
        for strategy in (first, second):
            torch.manual_seed(3)
            strategy.train(experience, eval_streams=[])
        assert_identical(parameters_of(first.model), parameters_of(second.model))
        assert_identical(restored.state_dict(), exact.state_dict())


def test_weights_restored_without_the_state_are_said():
    plugin = SIPlugin(5.0)
    strategy = strategy_with([Restoring(plugin, ["weights"]), plugin], train_epochs=5)
    with pytest.warns(UserWarning, match=r"weights changed outside the optimizer's steps \('0\.weight' among them\)"):
        strategy.train(class_incremental(1).train_stream, eval_streams=[])


@pytest.mark.parametrize("part", [0, 1, 3])
def test_a_state_restored_amid_an_online_experience(part):
    """The experience goes on: it is consolidated with its last part, once."""
    plugin = SIPlugin(1.0)
    restoring = Restoring(plugin, ["weights", "plugin"])
    restoring.after_training_exp = lambda strategy, **kwargs: None
    strategy = strategy_with([restoring, plugin], train_epochs=3)
    parts = parts_of(class_incremental(2).train_stream, 10, False)
    for k, online in enumerate(parts):
        if k == part:
            restoring.after_training_exp = lambda s, **kwargs: Restoring.after_training_exp(restoring, s)
        strategy.train(online, eval_streams=[])
        restoring.after_training_exp = lambda strategy, **kwargs: None
        assert plugin.penalty.n_terms == (k + 1) // 4, f"{plugin.penalty.n_terms} terms after part {k}"


# ------------------------------------------------------------------- no false alarm


class Swapping(SupervisedPlugin):
    """Evaluates other weights than those that are trained, and puts these back."""

    def before_eval(self, strategy, **kwargs):
        """Swap in."""
        self.weights = copy.deepcopy(strategy.model.state_dict())
        halve_in_place(strategy.model)

    def after_eval(self, strategy, **kwargs):
        """Swap out."""
        strategy.model.load_state_dict(self.weights)


@pytest.mark.parametrize("order", ["in front", "behind"])
@pytest.mark.parametrize(
    "other",
    [
        lambda: Swapping(),
        lambda: At("before_training_epoch", lambda m: m.load_state_dict(m.state_dict()), EVERY_TIME),
        lambda: At("after_training_epoch", lambda m: m.double().float(), EVERY_TIME),
        lambda: At("after_training_exp", lambda m: m.load_state_dict(m.state_dict())),
    ],
    ids=["swapped for evaluation", "loaded before epochs", "another type and back", "loaded after training"],
)
def test_the_same_values_written_are_no_change(other, order):
    plugin = SIPlugin(1.0)
    plugins = [other(), plugin] if order == "in front" else [plugin, other()]
    strategy = strategy_with(plugins, train_epochs=3, eval_every=1)
    for experience in class_incremental(2).train_stream:
        strategy.train(experience, eval_streams=[[experience]])
    assert plugin.penalty.n_terms == 2


class InPlace(SupervisedPlugin):
    """Writes to the frozen weights after every step, as autograd sees it."""

    def after_training_iteration(self, strategy, **kwargs):
        """Write."""
        with torch.no_grad():
            strategy.model.inner[0].weight.mul_(0.9)


@pytest.mark.parametrize("others", [[], [InPlace()]], ids=["merged", "and written to"])
def test_frozen_weights_may_change(others):
    """As those that a LoRA layer merges into, and that rounding does not quite put back."""

    class Merging(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()
            self.inner[0].requires_grad_(False)
            self.product = 0.1

        def train(self, mode=True):
            if mode != self.training:
                self.product *= 1.0 if mode else -1.3
                self.inner[0].weight.data += self.product if mode else -self.product
            return super().train(mode)

        def forward(self, x):
            return self.inner(x)

    plugin, model = SIPlugin(1.0), Merging()
    strategy = strategy_with([plugin, *others], model, kind=Naive, train_epochs=3, eval_every=1)
    for experience in class_incremental(2).train_stream:
        before = parameters_of(model)
        strategy.train(experience, eval_streams=[[experience]])
        assert not torch.equal(model.inner[0].weight, before["inner.0.weight"]), "nothing changed"
    assert plugin.importance["inner.2.weight"].any()
    assert not plugin.importance["inner.0.weight"].any()


def test_a_head_that_grows_is_no_change_but_its_old_part_is_watched():
    plugin = SIPlugin(1.0)
    model = Growing()
    strategy = strategy_with([plugin], model, kind=Naive)
    stream = class_incremental(3).train_stream
    strategy.train(stream[0], eval_streams=[])
    strategy.train(stream[1], eval_streams=[])
    with torch.no_grad():
        model.classifier.classifier.weight[0, 0] += 1
    with pytest.warns(UserWarning, match="'classifier.classifier.weight' among them"):
        strategy.train(stream[2], eval_streams=[])


# ------------------------------------------------------------------- fingerprints


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (7,), (4, 5), (3, 2, 4, 4)])
def test_a_fingerprint_is_that_of_the_values(dtype, shape):
    """Of every single one, and of where its row stands; not of the layout in memory."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    original = _fingerprint(values)
    for k in range(values.numel()):
        other = values.clone()
        other.view(-1)[k] = torch.nextafter(other.view(-1)[k], torch.tensor(9.0, dtype=dtype))
        assert _fingerprint(other) != original, f"entry {k} moved by one unit in the last place"
    if values.dim():
        assert _fingerprint(values.flip(0)) != original
    if values.dim() == 4:
        assert _fingerprint(values.contiguous(memory_format=torch.channels_last)) == original
