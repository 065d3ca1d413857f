import pytest
import torch

from study.bench.plugins import DIRECT, KINDS, OURS, PlainPenalty, learn, strategy_stub, training_step
from study.bench.workloads import Workload, mlp

TINY = Workload("tiny", lambda classes: mlp(4, classes), (784,), batch=8)
CPU = torch.device("cpu")


def prepared(plugin, experiences):
    strategy = strategy_stub(TINY.model(10, CPU))
    learn(plugin, strategy, TINY.images(8, 10, CPU), experiences)
    return strategy


@pytest.mark.parametrize("table", [OURS, DIRECT], ids=["ours", "ours, direct"])
@pytest.mark.parametrize("method", OURS)
def test_ours_has_a_penalty_at_work_in_every_experience_after_the_first(table, method):
    for experiences in (1, 3):
        plugin = table[method]()
        strategy = prepared(plugin, experiences)
        assert plugin.penalty.n_terms == experiences
        assert plugin.penalty.active, "nothing is penalised, so that nothing is measured"
        with torch.no_grad():
            for p in strategy.model.parameters():
                p += 0.1
        strategy.loss = torch.zeros(())
        plugin.before_backward(strategy)
        assert float(strategy.loss.detach()) > 0


@pytest.mark.filterwarnings("ignore:weights changed outside")  # what is timed moves them by hand
@pytest.mark.parametrize("method", OURS)
def test_the_direct_path_makes_the_same_step_without_the_penalty_in_the_graph(method):
    ended = []
    for table in (OURS, DIRECT):
        plugin = table[method]()
        strategy = prepared(plugin, 2)
        with torch.no_grad():
            for p in strategy.model.parameters():
                p += 0.1
        training_step(strategy, plugin, *TINY.images(8, 10, CPU))()
        ended.append([p.detach().clone() for p in strategy.model.parameters()])
        strategy.loss = torch.zeros((), requires_grad=True) * 1
        plugin.before_backward(strategy)
        reached, ahead = set(), [strategy.loss.grad_fn]
        while ahead:
            node = ahead.pop()
            reached.add(node)
            ahead += [after for after, _ in node.next_functions if after is not None and after not in reached]
        leaves = {id(getattr(node, "variable", None)) for node in reached}
        in_graph = any(id(p) in leaves for p in strategy.model.parameters())
        assert in_graph == (table is OURS)
    for a, b in zip(*ended, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["Avalanche", "plain autograd"])
@pytest.mark.parametrize("method", ["EWC", "Online EWC", "MAS"])
def test_the_others_add_a_penalty_too(kind, method):
    plugin = KINDS[kind][method]()
    strategy = prepared(plugin, 3)
    with torch.no_grad():
        for p in strategy.model.parameters():
            p += 0.1
    strategy.loss = torch.ones(())
    plugin.before_backward(strategy)
    assert float(strategy.loss.detach()) > 1


def test_the_plain_penalty_is_its_formula_and_keeps_a_term_for_each_experience():
    plugin = PlainPenalty(separate=True)
    strategy = prepared(plugin, 3)
    assert len(plugin.terms) == 3
    parameters = [p.detach() for p in strategy.model.parameters()]
    expected = sum(
        0.5 * float((importance * (p - anchor) ** 2).sum())
        for term in plugin.terms
        for p, (importance, anchor) in zip(parameters, term, strict=True)
    )
    strategy.loss = torch.zeros(())
    plugin.before_backward(strategy)
    assert float(strategy.loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_plain_si_accumulates_minus_the_gradient_times_the_step():
    plugin = PlainPenalty(path_integral=True)
    strategy = prepared(plugin, 1)
    before = [p.detach().clone() for p in strategy.model.parameters()]
    omega = [each.clone() for each in plugin.omega]
    training_step(strategy, plugin, *TINY.images(8, 10, CPU))()
    for p, start, old, new in zip(strategy.model.parameters(), before, omega, plugin.omega, strict=True):
        torch.testing.assert_close(new - old, -p.grad * (p.detach() - start), rtol=1e-3, atol=1e-9)


def test_a_step_calls_every_callback_once_and_in_order():
    calls = []

    class Noting(PlainPenalty, supports_distributed=True):
        def __getattribute__(self, name):
            if name.startswith(("before_", "after_")) and name not in ("before", "after"):
                calls.append(name)
            return super().__getattribute__(name)

    strategy = strategy_stub(TINY.model(10, CPU))
    training_step(strategy, Noting(), *TINY.images(8, 10, CPU))()
    assert calls == [
        "before_training_iteration",
        "before_forward",
        "after_forward",
        "before_backward",
        "after_backward",
        "before_update",
        "after_update",
        "after_training_iteration",
    ]
