"""Parameters, terms and penalties that the tests of penalties share."""

import copy

import torch
from torch import Tensor

from clreg_plugins.penalty import QuadraticPenalty
from tests import oracles

SHAPES = {"weight": (6, 5), "bias": (6,), "kernel": (2, 3, 2, 2), "scale": ()}

USES = {  # of a penalty's term, by what a strategy or another plugin may do with the loss
    "alone": lambda term, theta: term,
    "scaled": lambda term, theta: 1024 * term,
    "scaled and divided": lambda term, theta: (3 * term + next(iter(theta.values())).sin().sum()) / 8,
    "squared": lambda term, theta: term**2,
    "added to a loss": lambda term, theta: sum(p.cos().sum() for p in theta.values()) + term,
}


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


def written_out(penalty: QuadraticPenalty, theta: dict[str, Tensor], strength: float) -> Tensor:
    """The penalty over the parameters given as an expression in float64 that autograd differentiates by itself."""
    given = [name for name in penalty.active if name in theta]
    difference = {name: theta[name].double() - penalty.anchor[name].double() for name in given}
    layers = [layer.factors for layer in getattr(penalty, "layers", {}).values()]
    total = oracles.kronecker_quadratics([factors for factors in layers if factors.outputs.any()], difference)
    for name in given:
        total = total + penalty.constant[name].double()
        if name in penalty.importance:
            total = total + (penalty.importance[name].double() * difference[name].square()).sum()
    return strength / 2 * total


def everything(penalty: QuadraticPenalty) -> dict:
    return copy.deepcopy(penalty.state_dict())


def assert_unchanged(penalty: QuadraticPenalty, before: dict) -> None:
    assert_equal(penalty.state_dict(), before, "state")


def assert_equal(after: object, before: object, what: str) -> None:
    if isinstance(before, dict):
        assert after.keys() == before.keys(), f"{what}: {list(after)}, before {list(before)}"
        for name in before:
            assert_equal(after[name], before[name], f"{what}, {name}")
    elif isinstance(before, Tensor):
        assert torch.equal(after, before), f"{what} changed"
    else:
        assert after == before, f"{what} is {after!r}, before {before!r}"


def consolidated(dtype: torch.dtype = torch.float64) -> QuadraticPenalty:
    penalty = grown(dtype)
    for t in range(3):
        penalty.add_term(*random_term(t, dtype))
    return penalty
