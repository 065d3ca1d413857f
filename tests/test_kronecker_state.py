"""Bad terms, and the state of a penalty in a file and in a pickle."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch

from clreg_plugins import Factors, Importance, KroneckerFactors, KroneckerPenalty
from tests import oracles
from tests.kronecker_terms import LAYERS, SHAPES, consolidated, detached, grown, parameters, term
from tests.penalties import assert_unchanged, everything, gradient

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
    "A is NaN": (spoiled("shifts", "inputs", math.nan), FloatingPointError, "the factor A of 'shifts' holds nan"),
    "G is infinite": (
        spoiled("shifts", "outputs", math.inf), FloatingPointError, "the factor G of 'shifts' holds inf"),
    "G overflows": (
        spoiled("shifts", "outputs", 1e308), FloatingPointError, "the factor A of 'shifts' overflows torch.float64"),
    "A does not fit": (
        changed("grouped", inputs=torch.eye(9).expand(2, 9, 9)), ValueError, r"'grouped' have shapes \(2, 9, 9\)"),
    "G does not fit": (
        changed("linear", outputs=torch.eye(4)[None]), ValueError, r"'linear' have shapes .* \(1, 4, 4\)"),
    "an embedding's A does not fit": (
        changed("table", inputs=torch.ones(6)), ValueError, r"'table' have shapes \(6,\) and"),
    "an unknown parameter": (
        changed("shifts", bias="other"), ValueError, "layer 'shifts' has factors for 'other', but"),
    "no anchor": (
        lambda i, a: a.pop("shifts.bias"), ValueError, "layer 'shifts' has factors for 'shifts.bias', but"),
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


# -------------------------------------------------------------------- state


def through_a_file(state):
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def loaded(penalty):
    restored = KroneckerPenalty()
    restored.load_state_dict(through_a_file(penalty.state_dict()))
    return restored


COPIES = {
    "a file": loaded,
    "a pickle": lambda penalty: pickle.loads(pickle.dumps(penalty)),
    "a deep copy": copy.deepcopy,
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_holds_everything_and_goes_on_as_the_original(how):
    penalty, theta = consolidated(), parameters(seed=5)
    restored = COPIES[how](penalty)
    assert_unchanged(restored, everything(penalty))
    assert restored.active == penalty.active
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
    "errors that are none": edited("linear", merge_errors=None),
    "a negative error": edited("linear", merge_errors=[-0.5]),
    "an error that is NaN": edited("linear", merge_errors=[math.nan]),
    "A has a negative diagonal": edited("linear", inputs=-torch.eye(5)[None].double()),
    "A is indefinite": edited("linear", inputs=(1.9 * torch.eye(5) - 0.9)[None].double()),
    "A is not symmetric": edited("linear", inputs=torch.ones(5, 5).triu()[None].double()),
    "a factor that float32 cannot hold": lambda s: [
        s["anchor"].update({n: s["anchor"][n].float() for n in ("linear.weight", "linear.bias")}),
        s["layers"]["linear"].update(inputs=1e200 * torch.eye(5)[None].double()),
    ],
    "a layer twice": lambda s: s["layers"].update(again=s["layers"]["linear"]),
    "terms without number": lambda s: s.update(n_terms=0),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_state_is_refused_and_changes_nothing(how):
    penalty, theta = consolidated(2), parameters(seed=5)
    before, value = everything(penalty), penalty.value(theta)
    state = everything(consolidated(3))
    DAMAGED[how](state)
    with pytest.raises(ValueError, match=r"state|its parameters need|both have factors"):
        penalty.load_state_dict(state)
    assert_unchanged(penalty, before)
    assert torch.equal(penalty.value(theta), value)


def test_a_state_that_is_no_mapping_is_refused():
    with pytest.raises(ValueError, match="allowed: a mapping by name"):
        KroneckerPenalty().load_state_dict(3)


def test_a_weight_of_another_kind_of_number_is_stored_as_a_float():
    penalty = grown()
    penalty.recenter(term(0), detached(parameters()), weight=np.float32(2))
    loaded(penalty)


@pytest.mark.parametrize("importance", [{}, {"linear.weight": torch.ones(3, 4)}, None])
def test_what_is_no_factors_is_refused(importance):
    with pytest.raises(TypeError, match="allowed: what kronecker_factors"):
        grown().recenter(importance, detached(parameters()))


def test_a_linear_layer_may_not_become_an_embedding():
    """Not even of a square weight, whose shape does not tell them apart."""
    penalty, weight = KroneckerPenalty(), {"weight": torch.zeros(3, 3).double()}
    penalty.grow(weight)
    linear, embedding = (
        KroneckerFactors({"": Factors("weight", None, a, torch.eye(3)[None])}, Importance({}, {}))
        for a in (torch.eye(3)[None], torch.ones(3))
    )
    penalty.recenter(linear, weight)
    before = everything(penalty)
    with pytest.raises(ValueError, match="layer '' is an embedding in one of two terms alone"):
        penalty.recenter(embedding, weight)
    assert_unchanged(penalty, before)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 3, 3), "the kernel of 'conv' has grown"), ((4, 1, 2), "the factors of 'conv' have shapes")],
)
def test_a_convolution_may_not_change_its_kernel_or_its_groups(shape, message):
    penalty = KroneckerPenalty()
    weight = {"conv.weight": torch.zeros(2, 3, 2).double()}
    penalty.grow(weight)
    factors = Factors("conv.weight", None, torch.eye(6)[None].double(), torch.eye(2)[None].double())
    penalty.recenter(KroneckerFactors({"conv": factors}, Importance({}, {})), weight)
    before = everything(penalty)
    changed = {"conv.weight": torch.zeros(shape).double()}
    with pytest.raises(ValueError, match=message if shape[0] == 2 else "shrink|have shapes"):
        penalty.grow(changed)
    assert_unchanged(penalty, before)
