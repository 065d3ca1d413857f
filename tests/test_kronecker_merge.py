"""One Kronecker product for a sum of two: the nearest."""

import pytest
import torch

from clreg_plugins import Importance, KroneckerFactors
from tests.kronecker_terms import LAYERS, consolidated, detached, factors_of, grown, parameters, term
from tests.penalties import assert_equal


def products(factors):
    """``A ⊗ G`` of each group."""
    inputs = torch.diag(factors.inputs)[None] if factors.inputs.ndim == 1 else factors.inputs
    return [torch.kron(a, g) for a, g in zip(inputs, factors.outputs, strict=True)]


def relative_error(layer, exact):
    got = torch.cat([p.flatten() for p in products(layer.factors)])
    want = torch.cat([p.flatten() for p in exact])
    return ((got - want).norm() / want.norm()).item() if want.any() else 0.0


def merged(layer, keep, weight, change=lambda new: new):
    penalty, (first, second) = grown(), (factors_of({layer: LAYERS[layer]}, t) for t in range(2))
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
    after, first, second, exact = merged(layer, keep, weight)
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
    after, _, _, exact = merged(layer, 0.8, 2.0, lambda new: SAME[how](new, old))
    # the error is the root of a difference of squares
    assert relative_error(after, exact) <= 1e-12
    assert all(error <= 1e-7 for error in after.merge_errors)


def test_factors_stay_positive_semidefinite_and_of_their_size():
    """After 50 terms; A keeps its size, so that neither factor over- or underflows."""
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


def test_a_merge_does_not_depend_on_how_a_term_is_split_between_its_factors():
    after, *_ = merged("linear", 1.0, 1.0)
    for scale in (255.0, 1e-20, 1e20):
        other, *_ = merged(
            "linear", 1.0, 1.0, lambda new, s=scale: new._replace(inputs=s * new.inputs, outputs=new.outputs / s)
        )
        for p, q in zip(products(after.factors), products(other.factors), strict=True):
            torch.testing.assert_close(p, q)
        assert other.merge_errors == pytest.approx(after.merge_errors, abs=1e-7)


@pytest.mark.parametrize("layer", ["linear", "grouped", "table"])
@pytest.mark.parametrize("scale", [1e-250, 1e-170, 1e160, 1e250])
def test_curvature_of_any_size_is_merged(layer, scale):
    """Whose square float64 cannot hold."""
    penalties = grown(), grown()
    for penalty, size in zip(penalties, (1.0, scale), strict=True):
        for t in range(2):
            new = factors_of({layer: LAYERS[layer]}, t)[layer]
            new = KroneckerFactors({layer: new._replace(outputs=size * new.outputs)}, Importance({}, {}))
            penalty.recenter(new, detached(parameters()), keep=0.5)
    plain, scaled = (penalty.layers[layer] for penalty in penalties)
    assert scaled.merge_errors == pytest.approx(plain.merge_errors, rel=1e-6)
    torch.testing.assert_close(scaled.factors.inputs, plain.factors.inputs)
    torch.testing.assert_close(scaled.factors.outputs / scale, plain.factors.outputs)


def silent(importance):
    """Factors of layers that no loss has reached."""
    zero = {name: f._replace(outputs=torch.zeros_like(f.outputs)) for name, f in importance.items()}
    return KroneckerFactors(zero, Importance({}, {}))


def test_a_first_term_without_loss_leaves_no_trace():
    """Its inputs say nothing."""
    penalty, expected, theta = grown(), grown(), parameters(seed=5)
    penalty.recenter(silent(term(0)), detached(parameters(seed=1)))
    assert penalty.active == ()
    assert penalty.value(theta).item() == 0
    for p in (penalty, expected):
        p.recenter(term(1), detached(parameters(seed=2)), weight=0.5)
    assert_equal(penalty.state_dict()["layers"], expected.state_dict()["layers"], "layers")


@pytest.mark.parametrize(
    "new", [lambda found: KroneckerFactors({}, Importance({}, {})), silent], ids=["none", "silent"]
)
def test_without_a_new_term_a_layer_decays(new):
    penalty, theta = consolidated(1), parameters(seed=5)
    before = penalty.layers
    penalty.recenter(new(term(1)), detached(theta), keep=0.25)
    for name, after in penalty.layers.items():
        torch.testing.assert_close(after.factors.outputs, 0.25 * before[name].factors.outputs)
        assert torch.equal(after.factors.inputs, before[name].factors.inputs)
        assert after.merge_errors == ()
        assert all(torch.equal(penalty.anchor[n], theta[n]) for n in after.factors.parameters)
