"""The state of a penalty, in a file and in a pickle."""

import copy
import io
import pickle

import pytest
import torch

from clreg_plugins.penalty import QuadraticPenalty
from tests import oracles
from tests.penalties import assert_unchanged, consolidated, everything, gradient, parameters, random_term


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


@pytest.mark.parametrize("reorder", [reversed, sorted])
def test_the_order_of_names_in_a_state_does_not_matter(reorder):
    """As some formats of files keep none."""
    penalty, theta = consolidated(), parameters(seed=2)
    state = penalty.state_dict()
    for kind in ("importance", "anchor", "constant"):
        state[kind] = {name: state[kind][name] for name in reorder(list(state[kind]))}
    other = QuadraticPenalty()
    other.load_state_dict(state | {"anchor": penalty.state_dict()["anchor"]})
    other.grow(theta)
    assert other.value(theta).item() == pytest.approx(penalty.value(theta).item(), rel=1e-12)


def test_a_penalty_follows_its_tensors_to_another_device():
    """A file from a GPU, loaded on a CPU; here the device without memory stands for the other one."""
    stream = io.BytesIO()
    torch.save(consolidated(), stream)
    stream.seek(0)
    penalty = torch.load(stream, map_location="meta", weights_only=False)
    assert {place.device.type for place in penalty.importance.places.values()} == {"meta"}
    assert {kind[0].type for kind in penalty.importance.buffers} == {"meta"}


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
        lambda s: s["constant"].update(bias=torch.tensor(-1.0)),
        lambda s: s["importance"]["bias"].sub_(100),
        lambda s: s["importance"].update(bias=s["importance"]["bias"].to("meta")),
        lambda s: s["importance"].update(bias=s["importance"]["bias"].to_sparse()),
        lambda s: s["importance"].update(bias=s["importance"]["bias"].long()),
        lambda s: s["anchor"].update(bias=s["anchor"]["bias"].float(), weight=None),
        lambda s: (s["importance"]["bias"].fill_(1e300), s["anchor"].update(bias=s["anchor"]["bias"].float())),
        lambda s: s.update(n_terms=True),
        lambda s: s.update(n_terms=0),
    ],
)
def test_a_bad_state_is_refused_and_changes_nothing(spoil):
    penalty = consolidated()
    before, bad = everything(penalty), everything(consolidated())
    spoil(bad)
    with pytest.raises(ValueError, match=r"state\b|importance, anchor and constant"):
        penalty.load_state_dict(bad)
    assert_unchanged(penalty, before)


def test_tensors_of_any_layout_and_precision_are_copied():
    state = consolidated(torch.float32).state_dict()
    as_they_are = {
        "weight": lambda t: torch.stack([t, t], -1)[..., 0],
        "bias": lambda t: t.clone().requires_grad_() * 1,
    }
    for kind in ("importance", "anchor"):
        state[kind] |= {name: change(state[kind][name]) for name, change in as_they_are.items()}
    state["constant"]["scale"] = state["constant"]["scale"].half()
    penalty = QuadraticPenalty()
    penalty.load_state_dict(state)
    assert_unchanged(penalty, consolidated(torch.float32).state_dict() | {"constant": penalty.state_dict()["constant"]})
    held = [*penalty.importance.values(), *penalty.anchor.values(), *penalty.constant.values()]
    assert {(t.dtype, t.requires_grad) for t in held} == {(torch.float32, False)}


def test_negative_importance_is_loaded_where_it_is_asked_for():
    state = consolidated().state_dict()
    state["importance"]["bias"][0] = -1.0
    penalty = QuadraticPenalty()
    penalty.load_state_dict(state, negative=True)
    assert_unchanged(penalty, state)
    with pytest.raises(ValueError, match=r"so far holds -1.0; with terms that keep their own anchors it must be"):
        penalty.add_term(*random_term(7))
    assert_unchanged(penalty, state)


def test_a_state_that_a_narrower_type_cannot_hold_is_refused():
    penalty = consolidated()
    penalty.recenter({"scale": torch.tensor(1e60, dtype=torch.float64)}, {"scale": torch.tensor(0.0)})
    before = everything(penalty)
    with pytest.raises(
        FloatingPointError, match=r"the importance of 'scale' holds .*e\+60; every entry must be finite in"
    ):
        penalty.grow(parameters(torch.float32))
    assert_unchanged(penalty, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_penalty_does_not_grow_by_weights_that_are_not_finite(value):
    penalty = consolidated()
    before = everything(penalty)
    with pytest.raises(FloatingPointError, match=f"parameter 'new' holds {value}"):
        penalty.grow(parameters() | {"new": torch.tensor([0.0, value])})
    assert_unchanged(penalty, before)


def test_a_pickle_holds_each_entry_once():
    penalty, theta = consolidated(), parameters(seed=2)
    expected = penalty.value(theta)
    entries = sum(p.numel() for p in theta.values())
    assert len(pickle.dumps(penalty)) < 2 * 8 * entries + 5000, "views were pickled as whole buffers"
    restored = pickle.loads(pickle.dumps(penalty))
    assert torch.equal(restored.value(theta), expected)
    oracles.assert_close(gradient(restored, theta), gradient(penalty, theta), 0.0)
    assert torch.equal(copy.deepcopy(penalty).value(theta), expected)
