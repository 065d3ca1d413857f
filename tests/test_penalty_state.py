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
