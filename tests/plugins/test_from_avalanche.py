"""Avalanche's plugins, turned into ours: the same numbers where the definitions coincide."""

import warnings

import pytest
import torch
from avalanche.training.plugins import EWCPlugin as AvalancheEWC
from avalanche.training.plugins import MASPlugin as AvalancheMAS
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.plugins import SynapticIntelligencePlugin as AvalancheSI

from clreg_plugins import EWCPlugin, MASPlugin, OnlineEWCPlugin, SIPlugin, from_avalanche
from tests.plugins.digits import assert_close, class_incremental, mlp, parameters_of, strategy_for
from tests.plugins.test_gradients import Watched

# Avalanche's SI calls numpy on tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")


def converted(theirs):
    """Ours, with the warning."""
    with pytest.warns(UserWarning, match="made from avalanche's") as caught:
        ours = from_avalanche(theirs)
    assert len(caught) == 1, f"{len(caught)} warnings instead of one"
    return ours, str(caught[0].message)


def both(make, experiences=3, lr=0.05, **options):
    """Train with Avalanche's plugin and with ours made from its like; batches come in the same order."""
    runs = []
    for ours in (False, True):
        plugin = make()
        if ours:
            plugin, _ = converted(plugin)
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        strategy = strategy_for(model, [plugin], kind=Watched, optimizer=optimizer, **options)
        for t, experience in enumerate(class_incremental(experiences).train_stream):
            torch.manual_seed(t)
            strategy.train(experience, eval_streams=[], shuffle=False)
        runs.append((strategy, plugin))
    return runs


def compare_steps(runs, *, rtol=2e-4):
    """Gradients of every step and parameters at the end."""
    (theirs, _), (ours, _) = runs
    assert len(theirs.steps) == len(ours.steps) > 0
    for k, (a, b) in enumerate(zip(theirs.steps, ours.steps, strict=True)):
        assert_close(b["grad"], a["grad"], rtol=rtol, what=f"gradient of step {k}")
    assert_close(parameters_of(ours.model), parameters_of(theirs.model), rtol=rtol, what="parameters")


@pytest.mark.parametrize("mode", ["separate", "online"])
def test_ewc_trains_to_the_same_numbers(mode):
    """Avalanche reads the experience in order, in eval mode, in batches of ``train_mb_size``: so does ours.

    The gradients of all steps of three experiences agree. (With a training transform they would not.)
    """
    options = {"mode": mode, **({"decay_factor": 0.8} if mode == "online" else {})}
    runs = both(lambda: AvalancheEWC(10.0, **options))
    compare_steps(runs)
    (_, theirs), (_, ours) = runs
    assert ours.reg_lambda == 20.0, f"ewc_lambda 10 became {ours.reg_lambda}"
    if mode == "online":
        assert type(ours) is OnlineEWCPlugin
        assert ours.gamma == 0.8
        latest = theirs.importances[2]
        assert_close(ours.importance, {n: v.data for n, v in latest.items()}, rtol=2e-4, what="importance")
    else:
        assert type(ours) is EWCPlugin
        total = {n: sum(theirs.importances[t][n].data for t in range(3)) for n in ours.importance}
        assert_close(ours.importance, total, rtol=2e-4, what="Σ importances")


def test_ewc_with_a_last_batch_that_is_smaller():
    """Both average over batches, not samples: a short last batch weighs as much as a full one."""
    compare_steps(both(lambda: AvalancheEWC(10.0), train_mb_size=16))


def test_mas_trains_to_the_same_numbers_up_to_the_second_term():
    """With α = 0.5 Avalanche's running mean is the average of the first two experiences.

    At the end of the third it fades the first one, so all three experiences are trained on alike.
    """
    runs = both(lambda: AvalancheMAS(lambda_reg=1.0, alpha=0.5))
    compare_steps(runs)
    (_, theirs), (_, ours) = runs
    assert type(ours) is MASPlugin
    assert ours.reg_lambda == 2.0
    assert ours.per_sample is False
    apart = max((ours.importance[n] - theirs.importance[n].data).abs().max().item() for n in ours.importance)
    assert apart > 1e-3, f"after three terms the importances differ by only {apart:.1e}: DIFFERENCES is out of date"


@pytest.fixture
def copying(monkeypatch):
    """Avalanche's SI as on a GPU, where moving parameters to the CPU copies them; on a CPU it keeps views."""

    def extract_weights(model, target, excluded_parameters):
        for name, p in AvalancheSI.allowed_parameters(model, excluded_parameters):
            target[name].data = p.detach().flatten().clone()

    monkeypatch.setattr(AvalancheSI, "extract_weights", staticmethod(extract_weights))


@pytest.mark.usefixtures("copying")
def test_si_trains_to_the_same_numbers():
    """With ξ so large that nothing reaches Avalanche's cut of Ω at 0.001, everything agrees."""
    runs = both(lambda: AvalancheSI(si_lambda=4e4, eps=1e3))
    compare_steps(runs)
    (_, theirs), (_, ours) = runs
    assert type(ours) is SIPlugin
    assert (ours.reg_lambda, ours.xi, ours.gradient, ours.clip) == (4e4, 1e3, "total", False)
    importance = {n: theirs.ewc_data[1][n].data.view_as(v) for n, v in ours.importance.items()}
    largest = max(v.max().item() for v in importance.values())
    assert 1e-6 < largest < 0.001, f"the largest Ω is {largest}: nothing to compare, or Avalanche's cut acts"
    assert_close(ours.importance, importance, rtol=1e-3, what="importance")


@pytest.mark.usefixtures("copying")
def test_si_differs_only_by_the_cut_at_the_default_damping():
    """Where Avalanche's Ω reaches 0.001 ours goes on."""
    (_, theirs), (_, ours) = both(lambda: AvalancheSI(si_lambda=1.0, eps=1e-3), experiences=1)
    cut = {n: v.clamp(max=0.001) for n, v in ours.importance.items()}
    importance = {n: theirs.ewc_data[1][n].data.view_as(v) for n, v in cut.items()}
    assert_close(cut, importance, rtol=1e-3, what="importance up to the cut")
    assert max(v.max().item() for v in ours.importance.values()) > 0.001


def test_si_of_avalanche_does_nothing_on_a_cpu():
    """Why the two tests before make Avalanche copy: if this fails, it does, and DIFFERENCES is old."""
    (_, theirs), (_, ours) = both(lambda: AvalancheSI(si_lambda=1.0), experiences=1)
    assert not any(v.data.any() for v in theirs.ewc_data[1].values()), "Avalanche's SI has an importance on a CPU now"
    assert any(v.any() for v in ours.importance.values())


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (lambda: AvalancheEWC(1.0), ["2 · ewc_lambda", 'fisher="batched"', "eval transforms", "train mode"]),
        (lambda: AvalancheMAS(1.0), ["2 · lambda_reg", "per_sample=False", "α = 0.5", "eval mode"]),
        (
            lambda: AvalancheSI(1.0),
            ["si_lambda", 'gradient="total"', "clip=False", "0.001", "BatchNorm", "1e-7", "On a CPU"],
        ),
    ],
)
def test_the_warning_lists_the_differences(theirs, words):
    _, message = converted(theirs())
    missing = [word for word in words if word not in message]
    assert not missing, f"the warning does not speak of {missing}:\n{message}"


def test_one_lambda_for_all_experiences_in_a_list():
    ours, _ = converted(AvalancheSI(si_lambda=[3.0, 3.0]))
    assert ours.reg_lambda == 3.0


def trained(plugin):
    """After one experience."""
    strategy = strategy_for(mlp(), [plugin])
    strategy.train(class_incremental(1).train_stream, eval_streams=[])
    return plugin


@pytest.mark.parametrize(
    ("theirs", "kind", "message"),
    [
        (
            lambda: ReplayPlugin(10),
            TypeError,
            r"plugin is of type avalanche\..*ReplayPlugin; allowed: an instance of avalanche's EWCPlugin",
        ),
        (lambda: None, TypeError, r"plugin is of type builtins\.NoneType; allowed"),
        (lambda: AvalancheEWC, TypeError, "plugin is the class EWCPlugin; allowed: an instance of"),
        (
            lambda: EWCPlugin(1.0),
            TypeError,
            r"plugin is of type clreg_plugins\.ewc\.EWCPlugin; allowed: an instance of avalanche's",
        ),
        (
            lambda: AvalancheSI(si_lambda=[1.0, 2.0]),
            ValueError,
            r"si_lambda is \[1.0, 2.0\]; allowed: one value",
        ),
        (
            lambda: AvalancheSI(1.0, excluded_parameters=["0"]),
            ValueError,
            r"excluded_parameters is \['0'\]; allowed: none",
        ),
        (lambda: trained(AvalancheEWC(1.0)), ValueError, "holds importances of experiences already"),
        (
            lambda: trained(AvalancheEWC(1.0, "online", 0.5)),
            ValueError,
            "holds importances of experiences already",
        ),
        (lambda: trained(AvalancheMAS(1.0)), ValueError, "holds importances of experiences already"),
        (lambda: trained(AvalancheSI(1.0)), ValueError, "holds importances of experiences already"),
        (lambda: AvalancheEWC(-1.0), ValueError, "ewc_lambda is -1.0; allowed"),
        (lambda: AvalancheEWC(1.0, "online", 1.5), ValueError, "decay_factor is 1.5; allowed"),
        (lambda: AvalancheSI(1.0, eps=0.0), ValueError, "eps is 0.0; allowed"),
    ],
)
def test_what_cannot_be_converted(theirs, kind, message):
    plugin = theirs()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(kind, match=message):
            from_avalanche(plugin)
