"""One quadratic equals the sum of all terms, in constant memory, as parameters come and grow."""

import pytest
import torch
from torch import Tensor

from clreg_plugins.flat import FlatTensors
from clreg_plugins.penalty import QuadraticPenalty
from tests import oracles
from tests.penalties import SHAPES, assert_unchanged, everything, gradient, grown, parameters, random_term

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
            item = item.buffers if isinstance(item, FlatTensors) else item
            pending += item.values() if isinstance(item, dict) else item if isinstance(item, (list, tuple)) else []
            tensors += [item] if isinstance(item, Tensor) else []
        return sum({t.data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

    penalty = grown()
    importance, anchor = random_term(0)
    penalty.add_term({name: value + 1 for name, value in importance.items()}, anchor)  # every parameter takes part
    first = size(penalty)
    for t in range(1, 100):
        penalty.add_term(*random_term(t))
    total = penalty._all_constants.nbytes  # of two terms and more
    assert size(penalty) - total == first, f"{size(penalty)} bytes after 100 terms, {first} after one"


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
    before, buffers = everything(penalty), penalty.importance.buffers
    penalty.grow(parameters(seed=7))
    assert_unchanged(penalty, before)
    assert penalty.importance.buffers is buffers, "the state was copied"


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
            "importance of unknown parameter 'other'; known: 'weight'",
        ),
        (
            "anchor",
            lambda t: {"other": torch.ones(2)},
            ValueError,
            "anchor of unknown parameter 'other'; known: 'weight'",
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


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), float("-inf")])
def test_a_factor_is_a_finite_number_of_at_least_zero(value):
    penalty = grown()
    penalty.add_term(*random_term(0))
    before = everything(penalty)
    for call, name in (
        (lambda: penalty.add_term(*random_term(1), weight=value), "weight"),
        (lambda: penalty.recenter(*random_term(1), weight=value), "weight"),
        (lambda: penalty.recenter(*random_term(1), keep=value), "keep"),
    ):
        with pytest.raises(ValueError, match=rf"{name} is {value!r}; allowed: a finite number >= 0"):
            call()
    with pytest.raises(ValueError, match=r"keep is 1\.5; allowed: a finite number >= 0 and <= 1"):
        penalty.recenter(*random_term(1), keep=1.5)
    assert_unchanged(penalty, before)


# ------------------------------------------------------------------ overflow

ONES = {"first": torch.ones(3), "w": torch.ones(3)}


def term_of(importance: float, anchor: float = 1.0) -> tuple[dict, dict]:
    """One entry of the second parameter."""
    return {**ONES, "w": torch.tensor([1.0, importance, 1.0])}, {**ONES, "w": torch.tensor([1.0, anchor, 1.0])}


OVERFLOWING = {
    "importance times weight": [(*term_of(1e30), 1e30)],
    "importance times the largest weight": [(*term_of(2.0), 3e38)],
    "sum of importances": [(*term_of(3e38), 1.0), (*term_of(3e38), 1.0)],
}
APART = {
    "distance between anchors": [(*term_of(1.0, 3e38), 1.0), (*term_of(1.0, -3e38), 1.0)],
    "its square": [(*term_of(1.0, 1e20), 1.0), (*term_of(1.0, -1e20), 1.0)],
    "a weighted square": [(*term_of(1e20, 1e10), 1.0), (*term_of(1e20, -1e10), 1.0)],
}


def of_two(terms: list) -> QuadraticPenalty:
    penalty = QuadraticPenalty()
    penalty.grow({name: torch.zeros(3) for name in ONES})
    for importance, anchor, weight in terms[:-1]:
        penalty.add_term(importance, anchor, weight)
    return penalty


@pytest.mark.parametrize("terms", [*OVERFLOWING.values(), *APART.values()], ids=[*OVERFLOWING, *APART])
def test_a_term_that_overflows_is_refused_and_changes_nothing(terms):
    penalty = of_two(terms)
    before = everything(penalty)
    with pytest.raises(FloatingPointError, match=r"the (importance|anchor|constant) of 'w' overflows torch\.float32"):
        penalty.add_term(*terms[-1])
    assert_unchanged(penalty, before)


@pytest.mark.parametrize("clip", [False, True, None])
@pytest.mark.parametrize("terms", OVERFLOWING.values(), ids=OVERFLOWING)
def test_recentering_that_overflows_is_refused_and_changes_nothing(terms, clip):
    penalty = of_two(terms)
    before = everything(penalty)
    importance, anchor, weight = terms[-1]
    with pytest.raises(FloatingPointError, match=r"the importance of 'w' overflows torch\.float32"):
        penalty.recenter(importance, anchor, weight=weight, clip=clip)
    assert_unchanged(penalty, before)


@pytest.mark.parametrize("method", ["add_term", "recenter"])
@pytest.mark.parametrize("kind", ["importance", "anchor"])
def test_what_float32_cannot_hold_is_refused(method, kind):
    penalty = of_two([None])
    before = everything(penalty)
    term = {"importance": dict(ONES), "anchor": dict(ONES)}
    term[kind]["w"] = torch.tensor([1.0, 1e300, 1.0], dtype=torch.float64)
    with pytest.raises(FloatingPointError, match=rf"{kind} of 'w' holds 1e\+300; every entry must be finite in torch"):
        getattr(penalty, method)(**term)
    assert_unchanged(penalty, before)


@pytest.mark.parametrize("far", [1e20, 3e38])
def test_anchors_however_far_apart_where_one_has_no_importance(far):
    """A place holder's distance is nobody's concern: the value stays right."""
    penalty = QuadraticPenalty()
    penalty.grow({"w": torch.tensor([far, 0.0])})
    penalty.add_term({"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([-far, far])})
    penalty.add_term({"w": torch.tensor([0.0, 3.0])}, {"w": torch.tensor([far, -far])})
    assert penalty.anchor["w"].tolist() == torch.tensor([-far, -far]).tolist()
    assert penalty.value({"w": torch.tensor([-far, -far])}).item() == 0.0


# --------------------------------------------------------------------- float8

FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", FLOAT8, ids=str)
def test_parameters_of_eight_bits_have_state_in_float32(dtype):
    """PyTorch has no arithmetic for them; they are read in float32, in which every one of them is exact."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(4, 3, generator=generator).to(dtype) for _ in range(4)]
    importance = torch.rand(4, 3, generator=generator)
    penalty, exact = QuadraticPenalty(), QuadraticPenalty()
    penalty.grow({"w": values[0]})
    exact.grow({"w": values[0].float()})
    for step, value in enumerate(values[1:3]):
        penalty.add_term({"w": importance.to(dtype) if step else importance}, {"w": value})
        exact.add_term({"w": importance.to(dtype).float() if step else importance}, {"w": value.float()})
    assert {t.dtype for t in (penalty.importance["w"], penalty.anchor["w"])} == {torch.float32}
    assert_unchanged(penalty, exact.state_dict())
    theta = {"w": values[3]}
    assert penalty.value(theta).item() == exact.value({"w": values[3].float()}).item() > 0
    for p, value in ((penalty, values[3]), (exact, values[3].float())):
        p.grow({"w": value})
        p.recenter({"w": importance}, {"w": value})
    assert_unchanged(penalty, exact.state_dict())


def test_eight_bits_that_are_not_finite_are_refused():
    penalty = QuadraticPenalty()
    penalty.grow({"w": torch.zeros(2)})
    with pytest.raises(FloatingPointError, match="anchor of 'w' holds nan"):
        penalty.add_term({"w": torch.ones(2)}, {"w": torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)})
