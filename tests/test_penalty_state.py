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
    ],
)
def test_a_bad_state_is_refused_and_changes_nothing(spoil):
    penalty = consolidated()
    before, bad = everything(penalty), everything(consolidated())
    spoil(bad)
    with pytest.raises(ValueError, match=r"state|importance, anchor and constant"):
        penalty.load_state_dict(bad)
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
