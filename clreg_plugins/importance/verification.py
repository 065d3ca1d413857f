"""Whether the rule of a layer holds in this model: found out on the data, before its numbers are used."""

from collections.abc import Callable
from enum import Enum

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from clreg_plugins.importance.general import gradients_of
from clreg_plugins.importance.layers import Moments
from clreg_plugins.importance.recording import Call


class Verdict(Enum):
    """What the check of one layer says."""

    HOLDS = "the rule gave autograd's numbers for two samples"
    OPEN = "too few samples reach the layer to tell; the rule is right for these, by the same check"
    OTHER_ROWS = "the rows of the layer's output are not samples"
    WRONG = "the rule's numbers are not autograd's"


def output_gradients(z: Tensor, calls: dict[nn.Module, Call], v: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient at each layer's own output under the cotangent ``v``, samples first."""
    if not calls:
        return ()
    edges: list[GradientEdge] = [call.edge for call in calls.values()]
    found = torch.autograd.grad(z, edges, v, retain_graph=True, allow_unused=True)
    return tuple(None if g is None else call.arrange(g) for g, call in zip(found, calls.values(), strict=True))


def verify(
    z: Tensor,
    calls: dict[nn.Module, Call],
    parameters: dict[nn.Module, dict[str, Tensor]],
    moments: Callable[[nn.Module, Tensor, Tensor], Moments],
) -> dict[nn.Module, Verdict]:
    """Check each layer under a random cotangent, first its layout, then its numbers.

    Layout: every row of the layer's output must belong to one sample alone, and no sample to two rows. This
    fails if tokens come first, or if the layer acts on what is no sample, such as a table of positions.
    Numbers: for the first and the last sample s, t that reach the layer, the rule must give G_s² + G_t², with
    G_s autograd's gradient for s alone. This fails if something changed the layer's output before we saw
    it, or if the rule is wrong.

    Args:
        z: the model's outputs.
        calls: the layers to check.
        parameters: of each layer, those that its rule gives, by their names in the model.
        moments: the rule: layer, input rows, output gradients of these rows -> Σ_n G_n².
    """
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(z)
    gradients = output_gradients(z, calls, noise)
    owners = _owners(z, calls, noise, gradients)
    single: dict[tuple[nn.Module, int], Moments] = {}
    for sample, modules in _samples_to_differentiate(owners).items():
        v = torch.zeros_like(z)
        v[sample] = noise[sample]
        wanted = {name: p for module in modules for name, p in parameters[module].items()}
        found = gradients_of(z, wanted, v)
        for module in modules:
            single[module, sample] = {name: found[name] for name in parameters[module] if name in found}

    verdicts = {}
    for (module, call), g in zip(calls.items(), gradients, strict=True):
        owner = owners[module]
        if owner is None:
            verdicts[module] = Verdict.OTHER_ROWS
            continue
        rows = _first_and_last(owner)
        if g is None or not rows:
            verdicts[module] = Verdict.OPEN
            continue
        got = moments(module, call.inputs[rows], g[rows])
        want: Moments = {}
        for row in rows:
            for name, gradient in single[module, int(owner[row])].items():
                square = gradient.to(got[name].dtype if name in got else gradient.dtype).square()
                want[name] = want[name] + square if name in want else square
        verdicts[module] = _compare(got, want, len(rows) == min(2, len(z)), torch.finfo(z.dtype).eps ** 0.5)
    return verdicts


def _compare(got: Moments, want: Moments, enough: bool, tolerance: float) -> Verdict:
    evidence = False
    for name in got.keys() | want.keys():
        if name not in got or name not in want:
            return Verdict.WRONG
        if not (want[name].isfinite().all() or got[name].isfinite().all()):
            continue  # the model's numbers are beyond the rule's fault, and the result will say so
        difference = (got[name] - want[name]).abs()
        if not (difference <= tolerance * want[name].max()).all():
            return Verdict.WRONG
        evidence |= bool(want[name].any())
    return Verdict.HOLDS if evidence and enough else Verdict.OPEN


def _owners(
    z: Tensor, calls: dict[nn.Module, Call], noise: Tensor, gradients: tuple[Tensor | None, ...]
) -> dict[nn.Module, Tensor | None]:
    """For each layer, the sample that each row of its output belongs to, or -1; None if rows are not samples.

    Group testing: bit b of the sample's number is 1 if the row feels the cotangent of those samples whose bit
    b is 1. It must feel it as it feels that of all samples, or not at all.
    """
    owners: dict[nn.Module, Tensor | None] = {}
    for (module, call), g in zip(calls.items(), gradients, strict=True):
        if g is None:
            owners[module] = torch.full((len(call.inputs),), -1)
        else:
            owners[module] = _rows(g).any(dim=1).long() - 1 if len(g) == len(call.inputs) else None
    numbers = torch.arange(len(z), device=z.device)
    for bit in range((len(z) - 1).bit_length()):
        chosen = ((numbers >> bit) & 1).to(z).view(-1, *[1] * (z.ndim - 1))
        parts = output_gradients(z, calls, noise * chosen)
        for module, part, whole in zip(calls, parts, gradients, strict=True):
            owner = owners[module]
            if part is None or owner is None:
                continue
            part, whole = _rows(part), _rows(whole)
            felt = part.any(dim=1)
            tolerance = torch.finfo(z.dtype).eps ** 0.5 * whole.abs().amax(dim=1)
            mixed = felt & ~((part - whole).abs().amax(dim=1) <= tolerance)  # NaN is mixed, too
            owners[module] = None if mixed.any() else owner + (felt.long() << bit)
    for module, owner in owners.items():
        if owner is not None:
            found = owner[owner >= 0]
            owners[module] = owner if len(found.unique()) == len(found) else None
    return owners


def _rows(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(-1).flatten(1)  # of one number a sample, too


def _first_and_last(owner: Tensor) -> list[int]:
    rows = (owner >= 0).nonzero().flatten().tolist()
    return sorted({rows[0], rows[-1]}) if rows else []


def _samples_to_differentiate(owners: dict[nn.Module, Tensor | None]) -> dict[int, list[nn.Module]]:
    samples: dict[int, list[nn.Module]] = {}
    for module, owner in owners.items():
        for row in _first_and_last(owner) if owner is not None else []:
            samples.setdefault(int(owner[row]), []).append(module)
    return samples
