"""One quadratic equals the sum of all terms, in value and gradient, in constant memory, under any use."""

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor

from clreg_plugins.penalty import QuadraticPenalty
from tests import oracles

SHAPES = {"weight": (6, 5), "bias": (6,), "kernel": (2, 3, 2, 2), "scale": ()}


def parameters(dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for name, shape in SHAPES.items()
    }


def random_term(seed: int, dtype: torch.dtype = torch.float64, distance: float = 0.1) -> tuple[dict, dict]:
    """Importances over four orders of magnitude, a third of them 0; anchors near those of training."""
    generator = torch.Generator().manual_seed(seed + 1)
    importance, anchor = {}, {}
    for name, p in parameters().items():
        strength = 10 ** (4 * torch.rand(p.shape, generator=generator, dtype=torch.float64) - 3)
        importance[name] = (strength * (torch.rand(p.shape, generator=generator) > 1 / 3)).to(dtype)
        anchor[name] = (p.detach() + distance * torch.randn(p.shape, generator=generator, dtype=torch.float64)).to(
            dtype
        )
    return importance, anchor


def grown(dtype: torch.dtype = torch.float64) -> QuadraticPenalty:
    penalty = QuadraticPenalty()
    penalty.grow(parameters(dtype))
    return penalty


def gradient(penalty: QuadraticPenalty, theta: dict[str, Tensor]) -> dict[str, Tensor]:
    """``2 Ω (θ − μ)``, as autograd sees it."""
    values = torch.autograd.grad(
        penalty.loss_term(theta, 2.0), list(theta.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(theta, values, strict=True))


def everything(penalty: QuadraticPenalty) -> dict:
    return copy.deepcopy(penalty.state_dict())


def assert_unchanged(penalty: QuadraticPenalty, before: dict) -> None:
    after = penalty.state_dict()
    assert after["n_terms"] == before["n_terms"]
    for kind in ("importance", "anchor", "constant"):
        assert after[kind].keys() == before[kind].keys()
        for name, tensor in before[kind].items():
            assert torch.equal(after[kind][name], tensor), f"{kind} of {name} changed"


# ------------------------------------------------------------ separate terms


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("distance", [0.1, 3.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_hundred_terms_equal_their_explicit_sum(dtype, tolerance, distance, weighted):
    penalty, theta, terms = grown(dtype), parameters(dtype, seed=9), []
    for t in range(100):
        importance, anchor = random_term(t, dtype, distance)
        weight = 0.25 * (t % 7) if weighted else 1.0
        penalty.add_term(importance, anchor, weight)
        terms.append((weight, importance, anchor))
    value, slope = oracles.quadratics(terms, theta)
    got = penalty.value(theta).item()
    assert abs(got - value) <= tolerance * value, f"value {got!r}, explicit sum {value!r}"
    oracles.assert_close(gradient(penalty, theta), slope, tolerance)
    assert penalty.n_terms == 100
    summed = {name: sum(w * f[name].double() for w, f, _ in terms) for name in theta}
    oracles.assert_close(penalty.importance, summed, tolerance, "importance")


def test_the_explicit_sum_holds_after_every_term():
    """The constant c is right all the way, at the anchors themselves and far from them."""
    penalty, terms = grown(), []
    for t in range(5):
        terms.append((1.0, *random_term(t)))
        penalty.add_term(*terms[-1][1:])
        for theta in (terms[-1][2], penalty.anchor, parameters(seed=4)):
            value, _ = oracles.quadratics(terms, theta)
            got = penalty.value(theta).item()
            assert abs(got - value) <= 1e-12 * max(value, 1e-3), f"after {t + 1} terms {got!r}, explicit {value!r}"


def test_memory_does_not_grow_with_the_number_of_terms():
    def size(penalty: QuadraticPenalty) -> int:
        penalty.value(parameters())
        tensors = []
        pending = list(vars(penalty).values())
        while pending:
            item = pending.pop()
            pending += item.values() if isinstance(item, dict) else item if isinstance(item, (list, tuple)) else []
            tensors += [item] if isinstance(item, Tensor) else []
        return sum(t.untyped_storage().nbytes() for t in tensors)

    penalty = grown()
    importance, anchor = random_term(0)
    penalty.add_term({name: value + 1 for name, value in importance.items()}, anchor)  # every parameter takes part
    first = size(penalty)
    for t in range(1, 100):
        penalty.add_term(*random_term(t))
    assert size(penalty) == first, f"{size(penalty)} bytes after 100 terms, {first} after one"


@pytest.mark.parametrize("units", [1, 3, 10])
def test_anchors_within_units_in_the_last_place_keep_to_the_bound(units):
    """``|μ − exact| <= T ε max|θ*|``, and the gradient is off by at most 2Ω times that."""
    count, epsilon = 100, 2.0**-24
    base, generator = (
        torch.randn(2000, generator=torch.Generator().manual_seed(1)),
        torch.Generator().manual_seed(2),
    )
    penalty = QuadraticPenalty()
    penalty.grow({"w": base})
    total, weighted, largest = (torch.zeros(2000, dtype=torch.float64) for _ in range(3))
    spacing = torch.nextafter(base.abs(), torch.tensor(torch.inf)) - base.abs()
    for _ in range(count):
        anchor = base + torch.randint(-units, units + 1, (2000,), generator=generator) * spacing
        strength = torch.rand(2000, generator=generator)
        penalty.add_term({"w": strength}, {"w": anchor})
        total += strength.double()
        weighted += strength.double() * anchor.double()
        largest = torch.maximum(largest, anchor.double().abs())
    bound = count * epsilon * largest
    error = (penalty.anchor["w"].double() - weighted / total).abs()
    assert (error <= bound).all(), f"μ is off by {(error / bound).max():.3g} times the bound"
    assert error.max() > 0, "the test is too easy: μ has no rounding error"
    theta = base.clone().requires_grad_()
    slope = torch.autograd.grad(penalty.loss_term({"w": theta}, 2.0), theta)[0].double()
    explicit = 2 * (total * base.double() - weighted)
    rounding = 4 * epsilon * count * slope.abs()
    excess = (slope - explicit).abs() - 2 * total * bound - rounding
    assert (excess <= 0).all(), f"the gradient is off by {excess.max():.3g} more than the bound"


def test_the_first_anchor_is_taken_as_it_is():
    """A parameter's value before any term has importance 0 and leaves no trace, not even by rounding."""
    before, anchor = torch.full((50,), 1000.0), torch.rand(50) * 1e-3
    penalty = QuadraticPenalty()
    penalty.grow({"w": before})
    penalty.add_term({"w": torch.rand(50) + 0.1}, {"w": anchor})
    error = ((penalty.anchor["w"] - anchor).abs() / anchor).max().item()
    assert error <= 2.0**-24, f"the first anchor is off by {error:.3g} of itself"


def test_nothing_divided_by_nothing_is_nothing():
    penalty = QuadraticPenalty()
    penalty.grow({"w": torch.tensor([1.0, 2.0, 3.0])})
    for _ in range(2):
        penalty.add_term({"w": torch.tensor([0.0, 1.0, 0.0])}, {"w": torch.tensor([7.0, 8.0, 9.0])})
    theta = torch.tensor([100.0, 9.0, 100.0], requires_grad=True)
    assert penalty.value({"w": theta}).item() == pytest.approx(2.0)
    assert gradient(penalty, {"w": theta})["w"].tolist() == pytest.approx([0.0, 4.0, 0.0])
    assert penalty.anchor["w"][1] == 8.0


def test_a_term_of_weight_zero_changes_nothing_but_the_count():
    penalty = grown()
    penalty.add_term(*random_term(0))
    before = everything(penalty)
    penalty.add_term(*random_term(1), weight=0.0)
    before["n_terms"] = 2
    assert_unchanged(penalty, before)


def test_a_term_may_leave_parameters_out():
    penalty, theta = grown(), parameters(seed=3)
    importance, anchor = random_term(0)
    penalty.add_term({"bias": importance["bias"]}, anchor)
    value, slope = oracles.quadratics([(1.0, {"bias": importance["bias"]}, anchor)], theta)
    assert penalty.value(theta).item() == pytest.approx(value, rel=1e-12)
    oracles.assert_close(gradient(penalty, theta), slope, 1e-12)


# ------------------------------------------------------------ latest anchor


@pytest.mark.parametrize("mode", ["sum", "decay", "replace", "average"])
def test_recentering_equals_its_formula(mode):
    penalty, theta, seen = grown(), parameters(seed=8), []
    expected = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    for t in range(6):
        importance, anchor = random_term(t)
        seen.append(importance)
        keep, weight = {
            "sum": (1, 1),
            "decay": (0.7, 1),
            "replace": (0, 1),
            "average": (t / (t + 1), 1 / (t + 1)),
        }[mode]
        penalty.recenter(importance, anchor, keep=keep, weight=weight)
        for name in expected:
            history = torch.stack([f[name] for f in seen])
            expected[name] = {
                "sum": history.sum(0),
                "decay": sum(0.7 ** (t - s) * f for s, f in enumerate(history)),
                "replace": history[-1],
                "average": history.mean(0),
            }[mode]
        oracles.assert_close(penalty.importance, expected, 1e-12, f"{mode}, term {t}")
        oracles.assert_close(penalty.anchor, anchor, 0.0, f"{mode}, anchor {t}")
    value, slope = oracles.quadratics([(1.0, expected, anchor)], theta)
    assert penalty.value(theta).item() == pytest.approx(value, rel=1e-12)
    assert penalty.value(anchor).item() == 0.0, "the constant of the past is still there"
    oracles.assert_close(gradient(penalty, theta), slope, 1e-12)


def test_recentering_after_separate_terms_forgets_their_constant():
    penalty = grown()
    for t in range(3):
        penalty.add_term(*random_term(t))
    assert sum(c.item() for c in penalty.constant.values()) > 0
    importance, anchor = random_term(5)
    penalty.recenter(importance, anchor)
    assert penalty.value(anchor).item() == 0.0


def test_negative_importances_are_clipped_as_totals_or_kept():
    term, anchor = {"w": torch.tensor([-3.0, -1.0, 2.0])}, {"w": torch.zeros(3)}
    for clip, expected in ((True, [0.0, 1.0, 4.0]), (None, [-1.0, 1.0, 4.0])):
        penalty = QuadraticPenalty()
        penalty.grow({"w": torch.zeros(3)})
        penalty.recenter({"w": torch.full((3,), 2.0)}, anchor)
        penalty.recenter(term, anchor, clip=clip)
        assert penalty.importance["w"].tolist() == expected, f"clip={clip}"


# -------------------------------------------------------------------- growth


@pytest.mark.parametrize("shape", [(8, 5), (6, 9), (8, 9)])
def test_growth_keeps_old_entries_and_gives_new_ones_no_importance(shape):
    penalty, terms = grown(), []
    for t in range(3):
        terms.append((1.0, *random_term(t)))
        penalty.add_term(*terms[-1][1:])
    penalty.value(parameters())  # scratch of the old size exists
    theta = parameters(seed=6)
    larger = torch.randn(shape, dtype=torch.float64)
    larger[:6, :5] = theta["weight"].detach()
    theta["weight"] = larger.requires_grad_()
    value, slope = oracles.quadratics(terms, {**theta, "weight": theta["weight"][:6, :5]})
    padded = torch.zeros(shape, dtype=torch.float64)
    padded[:6, :5] = slope["weight"]
    penalty.grow({**theta, "new": torch.ones(2)})
    theta["new"] = torch.full((2,), 5.0, requires_grad=True)
    assert penalty.value(theta).item() == pytest.approx(value, rel=1e-12)
    oracles.assert_close(gradient(penalty, theta), {**slope, "weight": padded, "new": torch.zeros(2)}, 1e-12)
    corner = torch.ones(shape, dtype=torch.bool)
    corner[:6, :5] = False
    assert not penalty.importance["weight"][corner].any()
    assert not penalty.importance["new"].any()
    assert torch.equal(penalty.anchor["weight"][corner], larger.detach()[corner])
    assert penalty.n_terms == 3


def test_growing_by_nothing_changes_nothing():
    penalty = grown()
    penalty.add_term(*random_term(0))
    before = everything(penalty)
    penalty.grow(parameters(seed=7))
    assert_unchanged(penalty, before)


@pytest.mark.parametrize("shape", [(5, 5), (9, 4), (6, 5, 1), (30,)])
def test_shrinking_is_an_error_and_changes_nothing(shape):
    penalty = grown()
    penalty.add_term(*random_term(0))
    before = everything(penalty)
    with pytest.raises(ValueError, match=r"parameter 'weight' has shape .* but its importance has shape \(6, 5\)"):
        penalty.grow({"bias": torch.zeros(9), "new": torch.zeros(2), "weight": torch.zeros(shape)})
    assert_unchanged(penalty, before)


def test_parameters_that_are_gone_have_no_effect():
    penalty = grown()
    penalty.add_term(*random_term(0))
    theta = parameters(seed=5)
    left = {"bias": theta["bias"], "unknown": torch.ones(3, requires_grad=True)}
    importance, anchor = random_term(0)
    value, _ = oracles.quadratics([(1.0, {"bias": importance["bias"]}, anchor)], left)
    assert penalty.value(left).item() == pytest.approx(value, rel=1e-12)


# ----------------------------------------------------------------- bad input


@pytest.mark.parametrize("method", ["add_term", "recenter"])
@pytest.mark.parametrize(
    ("kind", "change", "error", "message"),
    [
        (
            "importance",
            lambda t: {"scale": torch.tensor(float("nan"))},
            FloatingPointError,
            "importance of 'scale' holds nan",
        ),
        (
            "importance",
            lambda t: {"scale": torch.tensor(float("inf"))},
            FloatingPointError,
            "importance of 'scale' holds inf",
        ),
        (
            "anchor",
            lambda t: {"scale": torch.tensor(float("nan"))},
            FloatingPointError,
            "anchor of 'scale' holds nan",
        ),
        (
            "importance",
            lambda t: {"scale": torch.tensor(-2.0)},
            ValueError,
            "importance of 'scale' holds -2.0; it must be at",
        ),
        (
            "importance",
            lambda t: {"scale": torch.ones(2)},
            ValueError,
            r"importance of 'scale' has shape \(2,\), expected \(\)",
        ),
        (
            "anchor",
            lambda t: {"scale": torch.ones(2)},
            ValueError,
            r"anchor of 'scale' has shape \(2,\), expected \(\)",
        ),
        (
            "importance",
            lambda t: {"other": torch.ones(2)},
            ValueError,
            "importance of unknown parameter 'other'; known: weight",
        ),
        (
            "anchor",
            lambda t: {"other": torch.ones(2)},
            ValueError,
            "anchor of unknown parameter 'other'; known: weight",
        ),
        ("anchor", lambda t: {"scale": None}, ValueError, "importance of 'scale' comes without an anchor"),
    ],
)
def test_bad_terms_leave_the_penalty_as_it_was(method, kind, change, error, message):
    """The fault is in the last parameter, after three good ones."""
    penalty = grown()
    penalty.add_term(*random_term(0))
    before = everything(penalty)
    importance, anchor = random_term(1)
    chosen = importance if kind == "importance" else anchor
    chosen.update(change(chosen))
    anchor = {name: tensor for name, tensor in anchor.items() if tensor is not None}
    with pytest.raises(error, match=message):
        getattr(penalty, method)(importance, anchor)
    assert_unchanged(penalty, before)


# ------------------------------------------------------------------ the loss


def explicit(penalty: QuadraticPenalty, theta: dict[str, Tensor], strength: float) -> Tensor:
    """The penalty written out, for autograd."""
    return sum(
        strength / 2 * ((penalty.importance[n] * (p - penalty.anchor[n]) ** 2).sum() + penalty.constant[n])
        for n, p in theta.items()
    )


def consolidated(dtype: torch.dtype = torch.float64) -> QuadraticPenalty:
    penalty = grown(dtype)
    for t in range(3):
        penalty.add_term(*random_term(t, dtype))
    return penalty


USES = {
    "alone": lambda term, theta: term,
    "scaled": lambda term, theta: 1024 * term,
    "scaled and divided": lambda term, theta: (3 * term + theta["weight"].sin().sum()) / 8,
    "squared": lambda term, theta: term**2,
    "beside a loss": lambda term, theta: sum(p.cos().sum() for p in theta.values()) + term,
}


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
    first, second = penalty.loss_term(theta, 2.0), penalty.loss_term(others, 2.0)
    penalty.value(parameters(seed=4))
    first.backward()
    second.backward()
    for point, expected in zip((theta, others), want, strict=True):
        oracles.assert_close({n: p.grad for n, p in point.items()}, expected, 1e-12)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_gradients_handed_out_are_nobody_elses_memory(scale):
    """Autograd gives them to callers as they are: later steps must not write into them, nor they into the state."""
    penalty, theta = consolidated(), parameters(seed=2)
    found = torch.autograd.grad(penalty.loss_term(theta, 2.0) * scale, list(theta.values()))
    kept = {name: (gradient, gradient.clone()) for name, gradient in zip(theta, found, strict=True)}
    others = parameters(seed=3)
    (penalty.loss_term(others, 2.0) * scale).backward()
    assert all(torch.equal(now, then) for now, then in kept.values()), "a later step wrote into an earlier gradient"
    held = [*penalty.importance.values(), *penalty.anchor.values()]
    held += [t for name in theta for t in penalty.scratch(name)]
    places = [t.data_ptr() for t in (*held, *(now for now, _ in kept.values()), *(p.grad for p in others.values()))]
    assert len(set(places)) == len(places)


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
    for p in theta.values():
        p.requires_grad_(False)
    assert not penalty.loss_term(theta, 2.0).requires_grad


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


# --------------------------------------------------------------------- state


def test_the_state_makes_the_round_trip_through_a_file():
    penalty, theta = consolidated(torch.float32), parameters(torch.float32, seed=2)
    stream = io.BytesIO()
    torch.save(penalty.state_dict(), stream)
    stream.seek(0)
    restored = QuadraticPenalty()
    restored.load_state_dict(torch.load(stream, weights_only=True))
    assert_unchanged(restored, penalty.state_dict())
    assert torch.equal(restored.value(theta), penalty.value(theta))
    for copy_ in (restored, penalty):
        copy_.add_term(*random_term(7, torch.float32))
    assert_unchanged(restored, penalty.state_dict())


def test_a_state_shares_no_memory_with_the_penalty():
    penalty = consolidated()
    state = penalty.state_dict()
    other = QuadraticPenalty()
    other.load_state_dict(state)
    before = everything(penalty)
    for kind in ("importance", "anchor", "constant"):
        state[kind]["bias"].fill_(7.0)
    assert_unchanged(other, before)
    other.add_term(*random_term(9))
    assert_unchanged(penalty, before)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s.pop("anchor"),
        lambda s: s.update(extra=1),
        lambda s: s["anchor"].pop("bias"),
        lambda s: s["anchor"].update(bias=torch.zeros(2)),
        lambda s: s["constant"].update(bias=torch.zeros(2)),
    ],
)
def test_a_bad_state_is_refused_and_changes_nothing(spoil):
    penalty = consolidated()
    before, bad = everything(penalty), everything(consolidated())
    spoil(bad)
    with pytest.raises(ValueError, match=r"state|importance, anchor and constant"):
        penalty.load_state_dict(bad)
    assert_unchanged(penalty, before)


def test_a_pickle_holds_no_scratch():
    penalty, theta = consolidated(), parameters(seed=2)
    small = len(pickle.dumps(penalty))
    expected = penalty.value(theta)
    assert len(pickle.dumps(penalty)) <= small + 64, "scratch went into the pickle"
    restored = pickle.loads(pickle.dumps(penalty))
    assert torch.equal(restored.value(theta), expected)
    oracles.assert_close(gradient(restored, theta), gradient(penalty, theta), 0.0)
    assert torch.equal(copy.deepcopy(penalty).value(theta), expected)
