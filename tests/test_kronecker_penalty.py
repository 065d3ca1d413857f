"""The penalty equals that of the whole matrix ``A ⊗ G``, in constant memory, as parameters come and grow."""

import copy
from dataclasses import replace

import pytest
import torch

from clreg_plugins import Factors, Importance, KroneckerFactors, KroneckerPenalty
from clreg_plugins.flat import FlatTensors
from tests import oracles
from tests.kronecker_terms import LAYERS, SHAPES, consolidated, detached, factors_of, grown, parameters, term
from tests.penalties import USES, assert_equal, assert_unchanged, everything, gradient, written_out
from tests.plugins.test_operations import Counting

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


@pytest.mark.parametrize("create_graph", [False, True])
def test_autocast_around_a_step_plays_no_part(create_graph):
    penalty, theta = consolidated(dtype=torch.float32), parameters(torch.float32, seed=5)

    def step():
        value = penalty.loss_term(theta, 2.0)
        return value, torch.autograd.grad(value, list(theta.values()), create_graph=create_graph)

    want = step()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = step()
    assert torch.equal(got[0], want[0])
    assert all(map(torch.equal, got[1], want[1]))


@pytest.mark.parametrize("how", ["factors come", "a state is loaded"])
def test_a_work_space_of_another_order_is_refused(how):
    """Parameters with factors alone stand behind the others."""
    penalty, theta = grown(), parameters(seed=5)
    work = penalty.work_space()
    if how == "factors come":
        penalty.recenter(term(0), detached(theta))
    else:
        penalty.load_state_dict(consolidated().state_dict())
    with pytest.raises(ValueError, match="into is a work space of other parameters, or has them in another order"):
        penalty.step(theta, 2.0, work)


# ------------------------------------------------------------ constant memory and time


def test_the_fiftieth_term_costs_what_the_second_does():
    penalty, theta, costs = grown(), parameters(seed=5), []
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


def on_a_device_without_values(penalty):
    """The same penalty on PyTorch's meta device, which like a GPU is not the CPU."""

    def moved(flat):
        return FlatTensors({name: place._replace(device=torch.device("meta")) for name, place in flat.places.items()})

    other = copy.copy(penalty)
    other.importance, other.anchor = moved(penalty.importance), moved(penalty.anchor)
    other.layers = {
        name: replace(layer, factors=Factors(*layer.factors[:2], *(f.to("meta") for f in layer.factors[2:])))
        for name, layer in penalty.layers.items()
    }
    return other


@pytest.mark.parametrize("diagonal", [True, False])
def test_a_step_copies_nothing_between_devices(diagonal):
    shapes = SHAPES if diagonal else {n: shape for n, shape in SHAPES.items() if n != "norm.weight"}
    theta, penalty = parameters(shapes=shapes), KroneckerPenalty()
    penalty.grow(theta)
    penalty.recenter(term(1) if diagonal else factors_of(LAYERS, 1), detached(theta))
    penalty = on_a_device_without_values(penalty)
    theta = {name: p.to("meta") for name, p in theta.items()}
    work = penalty.work_space()
    with Counting() as step:
        value = penalty.step(theta, 2.0, work).value
    assert value.device.type == "meta"
    assert step.counts["_to_copy"] == 0


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
    for name, (_, _, inputs, outputs) in wider.items():
        factors = penalty.layers[name].factors
        assert (factors.inputs.shape, factors.outputs.shape) == (inputs, outputs)


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
