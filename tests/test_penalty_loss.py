"""The value and gradient of the penalty under any use of the loss."""

import pytest
import torch
from torch import Tensor

from clreg_plugins.penalty import QuadraticPenalty
from tests import oracles
from tests.penalties import USES, consolidated, gradient, parameters, random_term


def explicit(penalty: QuadraticPenalty, theta: dict[str, Tensor], strength: float) -> Tensor:
    """The penalty written out, for autograd."""
    return sum(
        strength / 2 * ((penalty.importance[n] * (p - penalty.anchor[n]) ** 2).sum() + penalty.constant[n])
        for n, p in theta.items()
    )


@pytest.mark.parametrize("use", USES)
def test_the_gradient_is_autograds_under_any_use_of_the_loss(use):
    penalty, theta = consolidated(), parameters(seed=2)
    ours, written_out = (
        USES[use](term, theta) for term in (penalty.loss_term(theta, 3.0), explicit(penalty, theta, 3.0))
    )
    assert ours.item() == pytest.approx(written_out.item(), rel=1e-12)
    want = dict(zip(theta, torch.autograd.grad(written_out, list(theta.values())), strict=True))
    first = dict(zip(theta, torch.autograd.grad(ours, list(theta.values()), retain_graph=True), strict=True))
    oracles.assert_close(first, want, 1e-12, "torch.autograd.grad")
    ours.backward(retain_graph=True)
    ours.backward()
    oracles.assert_close({name: p.grad / 2 for name, p in theta.items()}, want, 1e-12, "two backwards")


def test_second_derivatives_are_those_of_the_expression():
    """As in meta-learning, where the loss holds a gradient."""
    penalty, theta = consolidated(), parameters(seed=2)

    def meta(term: Tensor) -> Tensor:
        slopes = torch.autograd.grad(term, list(theta.values()), create_graph=True)
        return sum((slope**3).sum() for slope in slopes)

    got, want = (
        torch.autograd.grad(meta(make(theta)), list(theta.values()))
        for make in (lambda t: penalty.loss_term(t, 3.0), lambda t: explicit(penalty, t, 3.0))
    )
    oracles.assert_close(dict(zip(theta, got, strict=True)), dict(zip(theta, want, strict=True)), 1e-12)


def test_accumulated_gradients_are_the_sum_over_steps():
    penalty, theta = consolidated(), parameters(seed=2)
    for _ in range(4):
        (penalty.loss_term(theta, 1.0) / 4).backward()
    want = gradient(penalty, theta)
    oracles.assert_close({n: 2 * p.grad for n, p in theta.items()}, want, 1e-12)


def test_each_loss_term_keeps_the_parameters_it_was_made_at():
    """An evaluation between forward and backward (a log, a model's copy) leaves no trace."""
    penalty, theta, others = consolidated(), parameters(seed=2), parameters(seed=3)
    want = [{name: g.clone() for name, g in gradient(penalty, point).items()} for point in (theta, others)]
    work = penalty.work_space()
    first, second = (
        penalty.differentiable(penalty.step(theta, 2.0, work), theta),
        penalty.differentiable(penalty.step(others, 2.0, work), others),
    )
    penalty.step(parameters(seed=4), 2.0, work)
    first.backward()
    second.backward()
    for point, expected in zip((theta, others), want, strict=True):
        oracles.assert_close({n: p.grad for n, p in point.items()}, expected, 1e-12)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_gradients_handed_out_are_nobody_elses_memory(scale):
    """Autograd gives them to callers as they are: later steps must not write into them, nor they into the state."""
    penalty, theta = consolidated(), parameters(seed=2)
    work = penalty.work_space()
    found = torch.autograd.grad(
        penalty.differentiable(penalty.step(theta, 2.0, work), theta) * scale, list(theta.values())
    )
    kept = {name: (gradient, gradient.clone()) for name, gradient in zip(theta, found, strict=True)}
    others = parameters(seed=3)
    (penalty.differentiable(penalty.step(others, 2.0, work), others) * scale).backward()
    assert all(torch.equal(now, then) for now, then in kept.values()), "a later step wrote into an earlier gradient"
    held = [*penalty.importance.values(), *penalty.anchor.values()]
    held += [*work.difference.values(), *work.product.values()]
    places = [t.data_ptr() for t in (*held, *(now for now, _ in kept.values()), *(p.grad for p in others.values()))]
    assert len(set(places)) == len(places)


def test_a_step_is_left_as_it_was_by_autograd():
    """A value that held its own graph would be a cycle, freed by the garbage collector only."""
    penalty, theta = consolidated(), parameters(seed=2)
    step = penalty.step(theta, 2.0)
    penalty.differentiable(step, theta).backward()
    assert not step.value.requires_grad
    assert step.value.item() == pytest.approx(explicit(penalty, theta, 2.0).item(), rel=1e-12)


def test_a_sum_over_many_equal_entries_keeps_its_precision():
    """As with L2, whose importance is 1 and whose parameters all drift alike: one float32 sum is off by a percent."""
    n = 2**24
    penalty, theta = QuadraticPenalty(), {"w": torch.zeros(n)}
    penalty.grow(theta)
    penalty.add_term({"w": torch.ones(n)}, theta)
    value = penalty.value({"w": torch.full((n,), 0.1)}).item()
    assert value == pytest.approx(n * 0.1**2, rel=5e-4)


def test_a_step_without_some_parameters_waits_for_no_device():
    """Asking for the number in a tensor is waiting, on a GPU."""
    penalty, theta = consolidated(), parameters(seed=2)
    expected = explicit(penalty, {n: p for n, p in theta.items() if n != "bias"}, 2.0).item()
    del theta["bias"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        value = penalty.value(theta)
    assert "aten::_local_scalar_dense" not in {event.key for event in profile.key_averages()}
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_moving_a_parameter_before_backward_is_refused():
    penalty, theta = consolidated(), parameters(seed=2)
    term = penalty.loss_term(theta, 1.0)
    with torch.no_grad():
        theta["bias"].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        term.backward()


def test_frozen_parameters_get_no_gradient_but_count_in_the_value():
    penalty, theta = consolidated(), parameters(seed=2)
    expected = explicit(penalty, theta, 2.0).item()
    theta["weight"].requires_grad_(False)
    term = penalty.loss_term(theta, 2.0)
    term.backward()
    assert term.item() == pytest.approx(expected, rel=1e-12)
    assert theta["weight"].grad is None
    assert theta["bias"].grad is not None
    frozen = {name: torch.nn.Parameter(p.detach(), requires_grad=False) for name, p in theta.items()}
    assert not penalty.loss_term(frozen, 2.0).requires_grad


@pytest.mark.parametrize(
    ("parameters_given", "error", "message"),
    [
        (lambda theta: {}, ValueError, "none of the parameters given"),
        (lambda theta: {f"module.{name}": p for name, p in theta.items()}, ValueError, "'module.weight'"),
        (lambda theta: theta.values(), TypeError, "allowed: dict"),
        (lambda theta: {name: p.detach() for name, p in theta.items()}, ValueError, "requires a gradient"),
    ],
)
def test_a_penalty_that_would_be_zero_or_without_gradient_is_an_error(parameters_given, error, message):
    with pytest.raises(error, match=message):
        consolidated().loss_term(parameters_given(parameters(seed=2)), 2.0)


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf"), "3", True, None])
def test_a_strength_that_is_none_is_named(strength):
    with pytest.raises(ValueError, match=r"strength is .*; allowed: a finite number >= 0"):
        consolidated().loss_term(parameters(seed=2), strength)


@pytest.mark.parametrize("shape", [(9, 5), (1, 5), (5,)])
def test_a_parameter_of_another_shape_is_refused(shape):
    """Among them those that would be broadcast."""
    penalty, theta = consolidated(), parameters(seed=2)
    theta["weight"] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"parameter 'weight' has shape .*, but its importance has shape \(6, 5\)"):
        penalty.value(theta)


def test_without_terms_the_penalty_is_zero():
    penalty, theta = QuadraticPenalty(), parameters()
    assert penalty.value(theta).item() == 0.0
    penalty.grow(theta)
    moved = parameters(seed=1)
    term = penalty.loss_term(moved, 5.0)
    assert term.item() == 0.0
    assert not term.requires_grad, "a penalty without terms costs autograd nothing"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_parameters_have_state_in_float32(dtype):
    penalty, theta, terms = QuadraticPenalty(), parameters(dtype, seed=2), []
    penalty.grow(theta)
    for t in range(20):
        importance, anchor = random_term(t, torch.float32)
        anchor = {name: value.to(dtype) for name, value in anchor.items()}
        penalty.add_term(importance, anchor)
        terms.append((1.0, importance, anchor))
    state = penalty.state_dict()
    assert {t.dtype for kind in ("importance", "anchor", "constant") for t in state[kind].values()} == {torch.float32}
    value, slope = oracles.quadratics(terms, theta)
    term = penalty.loss_term(theta, 2.0)
    assert term.dtype == torch.float32
    assert term.item() == pytest.approx(value, rel=1e-5)
    term.backward()
    assert {p.grad.dtype for p in theta.values()} == {dtype}
    oracles.assert_close({n: p.grad for n, p in theta.items()}, slope, torch.finfo(dtype).eps)


def test_parameters_of_any_memory_layout():
    """Channels-last and transposed parameters, whose elements lie in another order than the state's."""
    kernel = torch.randn(4, 3, 2, 2).double().contiguous(memory_format=torch.channels_last).requires_grad_()
    matrix = torch.randn(5, 3).double().t().detach().requires_grad_()
    theta = {"kernel": kernel, "matrix": matrix}
    penalty = QuadraticPenalty()
    penalty.grow(theta)
    importance = {n: torch.rand(p.shape).double() for n, p in theta.items()}
    anchor = {n: torch.randn(p.shape).double() for n, p in theta.items()}
    penalty.add_term(importance, anchor)
    value, slope = oracles.quadratics([(1.0, importance, anchor)], theta)
    assert penalty.value(theta).item() == pytest.approx(value, rel=1e-12)
    oracles.assert_close(gradient(penalty, theta), slope, 1e-12)
