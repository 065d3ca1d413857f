"""Parameters, terms and penalties that the tests of :class:`KroneckerPenalty` share: one layer of each kind."""

import torch

from clreg_plugins import Factors, Importance, KroneckerFactors, KroneckerPenalty

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


def grown(dtype=torch.float64):
    penalty = KroneckerPenalty()
    penalty.grow(parameters(dtype))
    return penalty


def consolidated(terms=3, dtype=torch.float64):
    penalty = grown(dtype)
    for t in range(terms):
        penalty.recenter(term(t, dtype), detached(parameters(dtype, seed=t)), keep=0.9)
    return penalty
