"""One Kronecker product a layer equals, or is nearest to, the sum of all terms, in constant memory."""

import copy
import io
import math
import pickle
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from clreg_plugins import Factors, Importance, KroneckerFactors, KroneckerPenalty
from clreg_plugins.kronecker import MERGES
from tests import oracles
from tests.penalties import assert_equal, assert_unchanged, everything, gradient, written_out

SHAPES = {
    "linear.weight": (3, 4),
    "linear.bias": (3,),
    "grouped.weight": (4, 2, 3),
    "grouped.bias": (4,),
    "table.weight": (5, 3),
    "unbiased.weight": (2, 1, 2, 2, 1),
    "shifts.bias": (2,),
    "norm.weight": (4,),
}
LAYERS = {  # weight, bias, shapes of A and G
    "linear": ("linear.weight", "linear.bias", (1, 5, 5), (1, 3, 3)),
    "grouped": ("grouped.weight", "grouped.bias", (2, 7, 7), (2, 2, 2)),
    "table": ("table.weight", None, (5,), (1, 3, 3)),
    "unbiased": ("unbiased.weight", None, (1, 4, 4), (1, 2, 2)),
    "shifts": (None, "shifts.bias", (1, 1, 1), (1, 2, 2)),
}


def parameters(dtype=torch.float64, seed=0, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    draw = {n: torch.randn(shape, generator=generator, dtype=torch.float64) for n, shape in shapes.items()}
    return {name: value.to(dtype).requires_grad_() for name, value in draw.items()}


def second_moment(shape, generator, dtype):
    """Positive semidefinite; of an embedding frequencies."""
    if len(shape) == 1:
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)
    rows = torch.randn(shape[0], 2 * shape[1], shape[1], generator=generator, dtype=torch.float64)
    return (rows.mT @ rows / rows.shape[1]).to(dtype)


def factors_of(layers, seed, dtype=torch.float64, **diagonal):
    generator = torch.Generator().manual_seed(seed + 1)
    found = {
        name: Factors(weight, bias, second_moment(a, generator, dtype), second_moment(g, generator, dtype))
        for name, (weight, bias, a, g) in layers.items()
    }
    return KroneckerFactors(found, Importance(diagonal, dict.fromkeys(diagonal, "rule")))


def term(seed, dtype=torch.float64, layers=LAYERS):
    norm = torch.rand(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factors_of(layers, seed, dtype, **{"norm.weight": norm.to(dtype)})


def detached(theta):
    return {name: p.detach().clone() for name, p in theta.items()}


def grown(dtype=torch.float64, merge="nearest"):
    penalty = KroneckerPenalty(merge)
    penalty.grow(parameters(dtype))
    return penalty


def consolidated(terms=3, dtype=torch.float64, merge="nearest"):
    penalty = grown(dtype, merge)
    for t in range(terms):
        penalty.recenter(term(t, dtype), detached(parameters(dtype, seed=t)), keep=0.9)
    return penalty


# ------------------------------------------------------------ value and gradient


def explicit(importance, theta, anchor):
    """``Σ vec(Δ)ᵀ (A ⊗ G) vec(Δ)`` and the diagonal of the others."""
    difference = {name: p.double() - anchor[name].double() for name, p in theta.items()}
    total = oracles.kronecker_quadratics(importance.values(), difference)
    return total + sum((o.double() * difference[n].square()).sum() for n, o in importance.diagonal.items())


@pytest.mark.parametrize("layer", [*LAYERS, None])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_penalty_of_one_term_is_that_of_the_whole_matrix(layer, dtype, tolerance):
    """Of each kind of layer by itself, and of all together."""
    importance = term(1, dtype) if layer is None else factors_of({layer: LAYERS[layer]}, 1, dtype)
    theta, anchor, penalty = parameters(dtype), detached(parameters(dtype, seed=3)), grown(dtype)
    penalty.recenter(importance, anchor, weight=0.5)
    value = 0.5 * explicit(importance, theta, anchor)
    assert penalty.value(theta).item() == pytest.approx(value.item(), rel=tolerance)
    slopes = torch.autograd.grad(value, list(theta.values()), materialize_grads=True, allow_unused=True)
    oracles.assert_close(gradient(penalty, theta), dict(zip(theta, slopes, strict=True)), tolerance)
    assert set(penalty.active) == {n for n, slope in zip(theta, slopes, strict=True) if slope.any()}
    assert not any(g.any() for g in gradient(penalty, {n: p.requires_grad_() for n, p in anchor.items()}).values())


USES = {
    "alone": lambda term, theta: term,
    "scaled": lambda term, theta: 1024 * term,
    "scaled and divided": lambda term, theta: (3 * term + theta["linear.weight"].sin().sum()) / 8,
    "squared": lambda term, theta: term**2,
    "beside a loss": lambda term, theta: sum(p.cos().sum() for p in theta.values()) + term,
}
PARTS = {
    "all": lambda theta: theta,
    "frozen weights": lambda theta: {n: p.requires_grad_(not n.endswith("weight")) for n, p in theta.items()},
    "frozen biases": lambda theta: {n: p.requires_grad_(not n.endswith("bias")) for n, p in theta.items()},
    "weights that are gone": lambda theta: {n: p for n, p in theta.items() if n.endswith(("bias", "table.weight"))},
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("part", PARTS)
def test_the_gradient_is_autograds_under_any_use_of_the_loss(use, part):
    """A bias's gradient depends on where its weight stands, be that trained or frozen."""
    penalty, theta = consolidated(), PARTS[part](parameters(seed=5))
    theta = {"linear.weight": torch.zeros(3, 4).double().requires_grad_(), **theta} if "divided" in use else theta
    ours, plain = (
        USES[use](value, theta) for value in (penalty.loss_term(theta, 3.0), written_out(penalty, theta, 3.0))
    )
    assert ours.item() == pytest.approx(plain.item(), rel=1e-12)
    leaves = {name: p for name, p in theta.items() if p.requires_grad}

    def slopes(loss):
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), retain_graph=True), strict=True))

    want = slopes(plain)
    oracles.assert_close(slopes(ours), want, 1e-12, "torch.autograd.grad")
    ours.backward(retain_graph=True)
    ours.backward()
    oracles.assert_close({name: p.grad / 2 for name, p in leaves.items()}, want, 1e-12, "two backwards")
    assert not any(p.grad is not None for p in theta.values() if not p.requires_grad)


@pytest.mark.parametrize("part", PARTS)
def test_second_derivatives_are_those_of_the_expression(part):
    penalty, theta = consolidated(), PARTS[part](parameters(seed=5))
    leaves = {name: p for name, p in theta.items() if p.requires_grad}

    def meta(value):
        found = torch.autograd.grad(value, list(leaves.values()), create_graph=True)
        return sum((slope**3).sum() for slope in found)

    got, want = (
        dict(zip(leaves, torch.autograd.grad(meta(value), list(leaves.values())), strict=True))
        for value in (penalty.loss_term(theta, 3.0), written_out(penalty, theta, 3.0))
    )
    oracles.assert_close(got, want, 1e-12)


def test_a_later_step_does_not_change_the_gradient_of_an_earlier_one():
    penalty, theta = consolidated(), parameters(seed=5)
    want = gradient(penalty, theta)
    work = penalty.work_space()
    first = penalty.differentiable(penalty.step(theta, 2.0, work), theta)
    penalty.step(parameters(seed=6), 2.0, work)
    got = dict(zip(theta, torch.autograd.grad(first, list(theta.values())), strict=True))
    oracles.assert_close(got, want, 1e-12)


def test_the_diagonal_is_that_of_the_whole_matrix():
    penalty, anchor = consolidated(), parameters(seed=2)
    for name, diagonal in penalty.diagonal().items():
        unit = {n: p.detach().clone() for n, p in anchor.items()}
        flat = unit[name].reshape(-1)
        for i, expected in enumerate(diagonal.flatten().tolist()):
            flat[i] += 1
            assert penalty.value(unit).item() == pytest.approx(expected, rel=1e-9), f"{name} at {i}"
            flat[i] = anchor[name].detach().flatten()[i]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_parameters_have_state_in_float32(dtype):
    penalty, theta = consolidated(dtype=torch.float32), parameters(dtype, seed=5)
    penalty.grow(theta)
    half = grown(dtype)
    for t in range(3):
        half.recenter(term(t, torch.float32), detached(parameters(torch.float32, seed=t)), keep=0.9)
    assert_equal(half.state_dict(), penalty.state_dict(), "state")
    loss = half.loss_term(theta, 2.0)
    loss.backward()
    assert (loss.dtype, {p.grad.dtype for p in theta.values()}) == (torch.float32, {dtype})
    slopes = torch.autograd.grad(written_out(half, theta, 2.0), list(theta.values()))
    oracles.assert_close(
        {name: p.grad for name, p in theta.items()},
        dict(zip(theta, slopes, strict=True)),
        torch.finfo(dtype).eps,
    )


# ------------------------------------------------------------ a product for a sum of two


def products(factors):
    """``A ⊗ G`` of each group."""
    inputs = torch.diag(factors.inputs)[None] if factors.inputs.ndim == 1 else factors.inputs
    return [torch.kron(a, g) for a, g in zip(inputs, factors.outputs, strict=True)]


def relative_error(layer, exact):
    got = torch.cat([p.flatten() for p in products(layer.factors)])
    want = torch.cat([p.flatten() for p in exact])
    return ((got - want).norm() / want.norm()).item() if want.any() else 0.0


def merged(layer, merge, keep, weight, change=lambda new: new):
    penalty, (first, second) = grown(merge=merge), (factors_of({layer: LAYERS[layer]}, t) for t in range(2))
    second = KroneckerFactors({layer: change(second[layer])}, Importance({}, {}))
    penalty.recenter(first, detached(parameters()))
    penalty.recenter(second, detached(parameters()), keep=keep, weight=weight)
    pairs = zip(products(first[layer]), products(second[layer]), strict=True)
    return penalty.layers[layer], first[layer], second[layer], [keep * p + weight * q for p, q in pairs]


FACTORS = [(1.0, 1.0), (0.5, 2.0), (1.0, 1e-6), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)]


@pytest.mark.parametrize(("keep", "weight"), FACTORS)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_nearest_product_is_that_of_the_leading_singular_pair(layer, keep, weight):
    """Of ``Σ_i c_i vec(A_i) vec(G_i)ᵀ``, the rearranged sum (Van Loan and Pitsianis)."""
    after, first, second, exact = merged(layer, "nearest", keep, weight)
    for group, (_, outputs) in enumerate(zip(exact, after.factors.outputs, strict=True)):
        rearranged = 0
        for c, factors in ((keep, first), (weight, second)):
            a = factors.inputs if factors.inputs.ndim == 1 else factors.inputs[group].flatten()
            rearranged = rearranged + c * torch.outer(a, factors.outputs[group].flatten())
        u, sigma, vh = torch.linalg.svd(rearranged)
        a = after.factors.inputs if after.factors.inputs.ndim == 1 else after.factors.inputs[group].flatten()
        got, best = torch.outer(a, outputs.flatten()), sigma[0] * torch.outer(u[:, 0], vh[0])
        assert (got - best).norm() <= 1e-10 * sigma[0], f"{(got - best).norm():.3g} of {sigma[0]:.3g}"
    assert after.merge_errors == pytest.approx([relative_error(after, exact)], abs=1e-7)
    assert after.weight == keep + weight


@pytest.mark.parametrize(("keep", "weight"), FACTORS)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_sum_takes_the_mean_of_a_and_the_sum_of_g(layer, keep, weight):
    after, first, second, exact = merged(layer, "sum", keep, weight)
    mean = (keep * first.inputs + weight * second.inputs) / (keep + weight or 1)
    torch.testing.assert_close(after.factors.inputs, mean)
    torch.testing.assert_close(after.factors.outputs, keep * first.outputs + weight * second.outputs)
    assert after.merge_errors == pytest.approx([relative_error(after, exact)], abs=1e-7)


SAME = {
    "the same": lambda new, old: old,
    "a multiple": lambda new, old: old._replace(outputs=3 * old.outputs),
    "the same, split in another way": lambda new, old: old._replace(inputs=50 * old.inputs, outputs=old.outputs / 50),
    "the same inputs": lambda new, old: old._replace(outputs=new.outputs),
    "the same outputs": lambda new, old: old._replace(inputs=new.inputs),
    "no loss": lambda new, old: new._replace(outputs=torch.zeros_like(new.outputs)),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("how", SAME)
def test_sums_that_are_products_are_kept_exactly(layer, how):
    old = factors_of({layer: LAYERS[layer]}, 0)[layer]
    after, _, _, exact = merged(layer, "nearest", 0.8, 2.0, lambda new: SAME[how](new, old))
    # the error is the root of a difference of squares
    assert relative_error(after, exact) <= 1e-12
    assert all(error <= 1e-7 for error in after.merge_errors)


def test_factors_stay_positive_semidefinite_and_of_their_size():
    """After 50 terms; A keeps the scale of an A, so that neither factor over- or underflows."""
    penalty = grown(torch.float32)
    for t in range(50):
        scaled = {n: f._replace(outputs=f.outputs * 10.0 ** (t % 7 - 3)) for n, f in term(t, torch.float32).items()}
        penalty.recenter(KroneckerFactors(scaled, Importance({}, {})), detached(parameters(torch.float32)))
    for name, layer in penalty.layers.items():
        sizes = [factor.norm().item() for t in range(50) for factor in [term(t)[name].inputs]]
        assert 0.1 * min(sizes) <= layer.factors.inputs.norm().item() <= 10 * max(sizes), name
        for factor in (layer.factors.inputs, layer.factors.outputs):
            values = factor.double() if factor.ndim == 1 else torch.linalg.eigvalsh(factor.double())
            assert values.min() >= -1e-6 * values.max(), f"{name}: {values.min():.3g} beside {values.max():.3g}"
        assert len(layer.merge_errors) == 49
        assert all(0 <= error < 1 for error in layer.merge_errors)


@pytest.mark.parametrize("merge", MERGES)
def test_a_first_term_without_loss_leaves_no_trace(merge):
    """Its inputs say nothing where G is 0."""
    silent = KroneckerFactors(
        {n: f._replace(outputs=torch.zeros_like(f.outputs)) for n, f in term(0).items()}, Importance({}, {})
    )
    penalty, expected, theta = grown(merge=merge), grown(merge=merge), parameters(seed=5)
    penalty.recenter(silent, detached(parameters(seed=1)))
    assert penalty.active == ()
    assert penalty.value(theta).item() == 0
    for p in (penalty, expected):
        p.recenter(term(1), detached(parameters(seed=2)))
    if merge == "nearest":
        assert penalty.value(theta).item() == pytest.approx(expected.value(theta).item(), rel=1e-12)


def test_decay_goes_by_layers_without_a_new_term():
    penalty, theta = consolidated(1), parameters(seed=5)
    before, layers = penalty.layers["linear"], {n: v for n, v in LAYERS.items() if n != "linear"}
    penalty.recenter(term(1, layers=layers), detached(theta), keep=0.25)
    after = penalty.layers["linear"]
    torch.testing.assert_close(after.factors.outputs, 0.25 * before.factors.outputs)
    torch.testing.assert_close(after.factors.inputs, before.factors.inputs)
    assert (after.weight, after.merge_errors) == (0.25, ())
    assert torch.equal(penalty.anchor["linear.weight"], theta["linear.weight"])


# ------------------------------------------------------------ constant memory and time


class Counting(TorchDispatchMode):
    """Counts operations and the entries that they give."""

    def __init__(self):
        super().__init__()
        self.counts, self.entries = Counter(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.counts[function.overloadpacket.__name__] += 1
        self.entries += result.numel() if isinstance(result, Tensor) else 0
        return result


@pytest.mark.parametrize("merge", MERGES)
def test_the_fiftieth_term_costs_what_the_second_does(merge):
    penalty, theta, costs = grown(merge=merge), parameters(seed=5), []
    for t in range(50):
        importance, anchor = term(t), detached(parameters(seed=t))
        with Counting() as consolidation:
            penalty.recenter(importance, anchor, keep=0.9)
        work = penalty.work_space()
        with Counting() as step:
            penalty.differentiable(penalty.step(theta, 2.0, work), theta).backward()
        state = penalty.state_dict()
        held = [f.numel() for layer in state.pop("layers").values() for f in (layer["inputs"], layer["outputs"])]
        held += [tensor.numel() for kind in ("importance", "anchor", "constant") for tensor in state[kind].values()]
        buffers = [b.numel() for flat in (penalty.importance, penalty.anchor) for b in flat.buffers.values()]
        costs.append((consolidation.counts, consolidation.entries, step.counts, step.entries, held, buffers))
        for p in theta.values():
            p.grad = None
    assert all(cost == costs[1] for cost in costs[2:])


def test_a_step_takes_two_matrix_products_a_layer():
    penalty, theta = consolidated(), parameters(seed=5)
    with Counting() as step:
        penalty.step(theta, 2.0, penalty.work_space())
    assert step.counts["bmm"] + step.counts["mm"] == 2 * len(LAYERS) - 1  # A of an embedding is a diagonal


# -------------------------------------------------------------------- growth

LARGER = {"linear.weight": (5, 6), "linear.bias": (5,), "table.weight": (8, 4), "grouped.weight": (6, 2, 3),
          "grouped.bias": (6,), "unbiased.weight": (3, 2, 2, 2, 1), "shifts.bias": (3,)}  # fmt: skip


def corner(tensor, shape):
    return tensor[tuple(slice(n) for n in shape)]


def test_growth_keeps_old_entries_and_gives_new_ones_no_curvature():
    penalty, old = consolidated(), consolidated()
    shapes = {**SHAPES, **LARGER, "new.weight": (2, 2)}
    theta, present = parameters(seed=5, shapes=shapes), parameters(seed=6, shapes=shapes)
    penalty.grow(present)
    assert set(penalty.layers) == set(LAYERS)
    inside = {n: corner(p.detach(), SHAPES[n]).clone().requires_grad_() for n, p in theta.items() if n in SHAPES}
    assert penalty.value(theta).item() == pytest.approx(old.value(inside).item(), rel=1e-12)
    slopes, expected = gradient(penalty, theta), gradient(old, inside)
    for name, slope in slopes.items():
        want = torch.zeros(shapes[name], dtype=torch.float64)
        anchor = present[name].detach().clone()
        if name in SHAPES:
            corner(want, SHAPES[name]).copy_(expected[name])
            corner(anchor, SHAPES[name]).copy_(old.anchor[name])
        oracles.assert_close({name: slope}, {name: want}, 1e-12, "gradient")
        assert torch.equal(penalty.anchor[name], anchor), f"anchor of {name}"
    wider = {
        "linear": ("linear.weight", "linear.bias", (1, 7, 7), (1, 5, 5)),
        "table": ("table.weight", None, (8,), (1, 4, 4)),
        "grouped": ("grouped.weight", "grouped.bias", (3, 7, 7), (3, 2, 2)),
    }
    penalty.recenter(factors_of(wider, 9), detached(theta))
    assert {n: tuple(map(tuple, (f.factors.inputs.shape, f.factors.outputs.shape))) for n, f in penalty.layers.items()}[
        "linear"
    ] == ((1, 7, 7), (1, 5, 5))


def test_growing_by_nothing_changes_nothing():
    penalty = consolidated()
    before, buffers, layers = everything(penalty), penalty.anchor.buffers, penalty.layers
    penalty.grow(parameters(seed=7))
    assert_unchanged(penalty, before)
    assert penalty.anchor.buffers is buffers, "the state was copied"
    assert penalty.layers is layers


@pytest.mark.parametrize("change", [{"linear.weight": (3, 3)}, {"linear.weight": (12,)}, {"table.weight": (4, 3)}])
def test_shrinking_is_an_error_and_changes_nothing(change):
    penalty = consolidated()
    before = everything(penalty)
    with pytest.raises(ValueError, match="but its importance has shape"):
        penalty.grow(parameters(shapes={**SHAPES, "norm.weight": (9,), **change}))
    assert_unchanged(penalty, before)


def test_a_parameter_of_another_shape_than_its_factors():
    with pytest.raises(ValueError, match=r"'linear.bias' has shape \(4,\), but its importance has shape \(3,\)"):
        consolidated().step(parameters(shapes={**SHAPES, "linear.bias": (4,)}), 1.0)


def frozen(layer, part):
    """What a pass finds of a layer whose weight or bias is frozen."""
    weight, bias, a, g = LAYERS[layer]
    if part == "weight":
        return None, bias, (a[0], 1, 1), g
    return (weight, None, (a[0], a[1] - 1, a[2] - 1), g) if part == "bias" else (weight, bias, a, g)


@pytest.mark.parametrize("layer", ["linear", "grouped"])
@pytest.mark.parametrize("order", [("weight", ""), ("bias", ""), ("", "weight"), ("", "bias"), ("weight", "bias")])
def test_a_weight_or_bias_that_is_frozen_in_one_of_two_experiences(layer, order):
    """What is frozen has rows of 0 in that term's factors."""
    terms = [factors_of({layer: frozen(layer, part)}, t) for t, part in enumerate(order)]
    penalty, theta, anchor = grown(), parameters(seed=5), detached(parameters(seed=6))
    padded = []
    for term_, part in zip(terms, order, strict=True):
        penalty.recenter(term_, anchor)
        a = term_[layer].inputs
        whole = torch.zeros(LAYERS[layer][2], dtype=torch.float64)
        start, stop = {"weight": (0, 1), "bias": (1, None), "": (0, None)}[part]
        whole[:, start:stop, start:stop] = a
        padded.append(Factors(*LAYERS[layer][:2], whole, term_[layer].outputs))
    expected = grown()
    for factors in padded:
        expected.recenter(KroneckerFactors({layer: factors}, Importance({}, {})), anchor)
    assert penalty.value(theta).item() == pytest.approx(expected.value(theta).item(), rel=1e-12)
    oracles.assert_close(gradient(penalty, theta), gradient(expected, theta), 1e-12)
    assert penalty.layers[layer].factors[:2] == LAYERS[layer][:2]


@pytest.mark.parametrize("first", ["factors", "diagonal"])
def test_a_parameter_with_factors_in_one_term_and_a_diagonal_in_another(first):
    """A layer that is called twice from some experience on: its penalty is the sum of both kinds."""
    diagonal = {n: torch.rand(SHAPES[n], dtype=torch.float64) for n in ("linear.weight", "linear.bias", "norm.weight")}
    terms = [factors_of({"linear": LAYERS["linear"]}, 0), KroneckerFactors({}, Importance(diagonal, {}))]
    penalty, theta, anchor = grown(), parameters(seed=5), detached(parameters(seed=6))
    for importance in terms if first == "factors" else terms[::-1]:
        penalty.recenter(importance, anchor)
    value = explicit(terms[0], theta, anchor) + explicit(terms[1], theta, anchor)
    assert penalty.value(theta).item() == pytest.approx(value.item(), rel=1e-12)
    slopes = torch.autograd.grad(value, list(theta.values()), allow_unused=True, materialize_grads=True)
    oracles.assert_close(gradient(penalty, theta), dict(zip(theta, slopes, strict=True)), 1e-12)
    restored = KroneckerPenalty()
    restored.load_state_dict(penalty.state_dict())
    assert restored.value(theta).item() == penalty.value(theta).item()


# ----------------------------------------------------------------- bad input


def changed(layer, **fields):
    def change(importance, anchor):
        importance[layer] = importance[layer]._replace(**fields)

    return change


def spoiled(layer, field, value):
    def change(importance, anchor):
        factor = getattr(importance[layer], field).clone()
        factor.view(-1)[-1] = value
        importance[layer] = importance[layer]._replace(**{field: factor})

    return change


BAD_TERMS = {
    "A is NaN": (spoiled("shifts", "inputs", math.nan), FloatingPointError, "the factor A of 'shifts' is not finite"),
    "G is infinite": (
        spoiled("shifts", "outputs", math.inf), FloatingPointError, "the factor G of 'shifts' is not finite"),
    "G overflows": (
        spoiled("shifts", "outputs", 1e308), FloatingPointError, "the factor A of 'shifts' overflows torch.float64"),
    "A does not fit": (
        changed("grouped", inputs=torch.eye(9).expand(2, 9, 9)), ValueError, r"'grouped' have shapes \(2, 9, 9\)"),
    "G does not fit": (
        changed("linear", outputs=torch.eye(4)[None]), ValueError, r"'linear' have shapes .* \(1, 4, 4\)"),
    "an embedding's A does not fit": (
        changed("table", inputs=torch.ones(6)), ValueError, r"'table' have shapes \(6,\) and"),
    "an unknown parameter": (
        changed("shifts", bias="other"), ValueError, "the factors of 'shifts' are about 'other', of which there is no"),
    "no anchor": (
        lambda i, a: a.pop("shifts.bias"), ValueError, "the factors of 'shifts' are about 'shifts.bias', of which"),
    "a NaN anchor": (
        lambda i, a: a.update({"norm.weight": torch.full((4,), math.nan)}), FloatingPointError, "anchor of 'norm"),
    "a negative diagonal": (
        lambda i, a: i.diagonal.update({"norm.weight": -torch.ones(4)}), ValueError, "importance of 'norm.weight' hol"),
    "another shape of the diagonal": (
        lambda i, a: i.diagonal.update({"norm.weight": torch.ones(3)}), ValueError, "importance of 'norm.weight' has"),
}  # fmt: skip


@pytest.mark.parametrize("how", BAD_TERMS)
def test_bad_terms_leave_the_penalty_as_it_was(how):
    """The fault comes after layers that are right."""
    change, error, message = BAD_TERMS[how]
    penalty, theta = consolidated(), parameters(seed=5)
    before, value, buffers = everything(penalty), penalty.value(theta), penalty.anchor.buffers
    importance, anchor = term(1), detached(parameters())
    change(importance, anchor)
    with pytest.raises(error, match=message):
        penalty.recenter(importance, anchor, weight=1e3)
    assert_unchanged(penalty, before)
    assert penalty.anchor.buffers is buffers
    assert torch.equal(penalty.value(theta), value)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_factor_is_a_finite_number_of_at_least_zero(value):
    penalty = consolidated()
    before = everything(penalty)
    for name in ("weight", "keep"):
        with pytest.raises(ValueError, match=rf"{name} is {value!r}; allowed: a finite number >= 0"):
            penalty.recenter(term(1), detached(parameters()), **{name: value})
    with pytest.raises(ValueError, match=r"keep is 1\.5; allowed: a finite number >= 0 and <= 1"):
        penalty.recenter(term(1), detached(parameters()), keep=1.5)
    assert_unchanged(penalty, before)


def test_what_it_does_not_offer():
    with pytest.raises(TypeError, match=r"keeps no anchor for each term; use recenter\(\)"):
        grown().add_term(term(0), detached(parameters()))
    with pytest.raises(ValueError, match="merge is 'mean'; allowed: nearest, sum"):
        KroneckerPenalty("mean")


# -------------------------------------------------------------------- state


def through_a_file(state):
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def loaded(penalty):
    restored = KroneckerPenalty(penalty.merge)
    restored.load_state_dict(through_a_file(penalty.state_dict()))
    return restored


COPIES = {
    "a file": loaded,
    "a pickle": lambda penalty: pickle.loads(pickle.dumps(penalty)),
    "a deep copy": copy.deepcopy,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("merge", MERGES)
def test_a_copy_holds_everything_and_goes_on_as_the_original(how, merge):
    penalty, theta = consolidated(merge=merge), parameters(seed=5)
    restored = COPIES[how](penalty)
    assert_unchanged(restored, everything(penalty))
    assert (restored.merge, restored.active) == (merge, penalty.active)
    assert torch.equal(restored.value(theta), penalty.value(theta))
    kept = everything(restored)
    for p in (penalty, restored):
        assert_unchanged(restored, kept)
        p.grow(parameters(seed=8, shapes={**SHAPES, "linear.weight": (3, 6)}))
        p.recenter(term(7, layers={n: v for n, v in LAYERS.items() if n != "linear"}), detached(p.anchor), keep=0.5)
    assert_unchanged(restored, everything(penalty))


def test_the_state_is_a_copy():
    penalty = consolidated()
    state, before = penalty.state_dict(), everything(penalty)
    restored = KroneckerPenalty()
    restored.load_state_dict(state)
    for layer in state["layers"].values():
        layer["inputs"].fill_(7.0)
        layer["outputs"].fill_(7.0)
        layer["merge_errors"].append(7.0)
    assert_unchanged(penalty, before)
    assert_unchanged(restored, before)


@pytest.mark.parametrize("reorder", [reversed, sorted])
def test_the_order_of_names_in_a_state_does_not_matter(reorder):
    penalty, theta = consolidated(), parameters(seed=5)
    penalty.recenter(  # both kinds of curvature for one of the layers
        KroneckerFactors({}, Importance({"table.weight": torch.rand(5, 3).double()}, {})), detached(parameters())
    )
    state = penalty.state_dict()
    for kind in ("importance", "anchor", "constant", "layers"):
        state[kind] = {name: state[kind][name] for name in reorder(list(state[kind]))}
    restored = KroneckerPenalty()
    restored.load_state_dict(state)
    assert restored.value(theta).item() == pytest.approx(penalty.value(theta).item(), rel=1e-14)
    oracles.assert_close(gradient(restored, theta), gradient(penalty, theta), 1e-14)


def edited(layer, **fields):
    return lambda state: state["layers"][layer].update(fields)


DAMAGED = {
    "no layers": lambda s: s.pop("layers"),
    "a key too many": lambda s: s.update(more=1),
    "layers are a list": lambda s: s.update(layers=[]),
    "importance is a list": lambda s: s.update(importance=[]),
    "an anchor is missing": lambda s: s["anchor"].pop("linear.weight"),
    "an anchor and its constant are missing": lambda s: [s[k].pop("linear.weight") for k in ("anchor", "constant")],
    "an anchor has another shape": lambda s: s["anchor"].update({"linear.weight": torch.zeros(4, 4)}),
    "an importance is NaN": lambda s: s["importance"].update({"norm.weight": torch.full((4,), math.nan)}),
    "a factor is missing": lambda s: s["layers"]["linear"].pop("inputs"),
    "a layer is None": lambda s: s["layers"].update(linear=None),
    "a factor is no tensor": edited("linear", inputs=[1.0]),
    "a factor is of integers": edited("linear", outputs=torch.ones(1, 3, 3, dtype=torch.int64)),
    "a factor is infinite": edited("linear", outputs=torch.full((1, 3, 3), math.inf)),
    "a factor is too small": edited("linear", inputs=torch.eye(4)[None]),
    "a factor is too large": edited("linear", inputs=torch.eye(6)[None]),
    "A is a number": edited("linear", inputs=torch.tensor(1.0)),
    "A is a matrix": edited("linear", inputs=torch.eye(5)),
    "A is that of an embedding": edited("unbiased", inputs=torch.ones(2)),
    "A of a layer with a bias is that of an embedding": edited("linear", inputs=torch.ones(3)),
    "A of a bias is that of an embedding": edited("shifts", inputs=torch.ones(2)),
    "G is a number": edited("linear", outputs=torch.tensor(1.0)),
    "G is a vector": edited("linear", outputs=torch.ones(3)),
    "G is a matrix": edited("linear", outputs=torch.eye(3)),
    "no groups": edited("grouped", inputs=torch.zeros(0, 7, 7), outputs=torch.zeros(0, 2, 2)),
    "other groups": edited("grouped", inputs=torch.eye(7).expand(3, 7, 7), outputs=torch.ones(3, 1, 1)),
    "groups without outputs": edited("grouped", outputs=torch.zeros(2, 0, 0)),
    "no parameter": edited("linear", weight=None, bias=None),
    "an unknown parameter": edited("linear", weight="other"),
    "a name that is a number": edited("linear", bias=3),
    "a weight that is no number": edited("linear", term_weight="1"),
    "a negative weight": edited("linear", term_weight=-1.0),
    "a weight that is NaN": edited("linear", term_weight=math.nan),
    "an infinite weight": edited("linear", term_weight=math.inf),
    "errors that are none": edited("linear", merge_errors=None),
    "a negative error": edited("linear", merge_errors=[-0.5]),
    "an error that is NaN": edited("linear", merge_errors=[math.nan]),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_state_is_refused_and_changes_nothing(how):
    penalty, theta = consolidated(2), parameters(seed=5)
    before, value = everything(penalty), penalty.value(theta)
    state = everything(consolidated(3))
    DAMAGED[how](state)
    with pytest.raises(ValueError, match=r"state|its parameters need"):
        penalty.load_state_dict(state)
    assert_unchanged(penalty, before)
    assert torch.equal(penalty.value(theta), value)
