"""Whether the rule of a layer holds in this model: found out on the data, before its numbers are used."""

import math
from collections.abc import Callable
from enum import Enum

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from clreg_plugins.importance.engine.forward_pass import gradients_of
from clreg_plugins.importance.engine.layer_rules import Moments
from clreg_plugins.importance.engine.model import state_dtype
from clreg_plugins.importance.engine.recording import Call

Calls = dict[nn.Module, Call]
RuleMoments = Callable[[nn.Module, Tensor, Tensor], Moments]
"""Layer, input rows, output gradients of these rows -> Σ_n G_n² by the layer's rule."""


class Verdict(Enum):
    """What the check of one layer says."""

    HOLDS = "the rule gives autograd's numbers for two samples"
    OPEN = "too few samples reach the layer to tell; the rule is right for these, by the same check"
    OTHER_ROWS = "the rows of the layer's output are not samples"
    WRONG = "the rule's numbers are not autograd's"


def output_gradients(z: Tensor, calls: Calls, v: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient at each layer's own output under the cotangent ``v``, samples first."""
    if not calls:
        return ()
    edges: list[GradientEdge] = [call.edge for call in calls.values()]
    found = torch.autograd.grad(z, edges, v, retain_graph=True, allow_unused=True)
    return tuple(None if g is None else call.arrange(g) for g, call in zip(found, calls.values(), strict=True))


class LayoutCheck:
    """Which sample each row of each layer's output belongs to, from the backward pass of a random cotangent.

    Attributes:
        noise: the cotangent.
        gradients: what it gives at each layer's output.
        owners: for each layer the sample of each row, -1 for a row that feels none; None if the layer's rows are not
            samples: one of them feels several, or two of them feel the same.

    The cotangent of sample n is multiplied by a power of two, an exact operation in floating point, and the gradient of
    a row that belongs to n alone is multiplied by the same, to the last bit. Each backward pass tells one digit of n.
    """

    def __init__(self, z: Tensor, calls: Calls) -> None:
        generator = torch.Generator(device="cpu").manual_seed(0)
        noise = torch.randn(z.shape, generator=generator, dtype=torch.float64, device="cpu")
        self.noise = noise.to(z.dtype).to(z.device)
        self.gradients = dict(zip(calls, output_gradients(z, calls, self.noise), strict=True))
        self.owners: dict[nn.Module, Tensor | None] = {}
        for module, g in self.gradients.items():
            rows = len(calls[module].inputs)
            if g is None:
                self.owners[module] = torch.full((rows,), -1)
            else:
                self.owners[module] = _rows(g).any(dim=1).long() - 1 if len(g) == rows else None
        digits = 4 if z.dtype == torch.float16 else 16  # powers that the type can hold
        numbers = torch.arange(len(z), device="cpu")
        place = 1
        while place < len(z):
            exponents = numbers // place % digits
            factors = (2.0**exponents).to(z.dtype).to(z.device).view(-1, *[1] * (z.ndim - 1))
            scaled = output_gradients(z, calls, self.noise * factors)
            for module, part in zip(calls, scaled, strict=True):
                self._read_digit(module, part, place, digits)
            place *= digits
        for module, owner in self.owners.items():
            if owner is not None:
                found = owner[owner >= 0]
                self.owners[module] = owner if len(found.unique()) == len(found) else None

    def _read_digit(self, module: nn.Module, part: Tensor | None, place: int, digits: int) -> None:
        owner, whole = self.owners[module], self.gradients[module]
        if part is None or whole is None or owner is None:
            return
        part, whole = _rows(part), _rows(whole)
        if not whole.numel():
            return
        felt = whole.any(dim=1)
        largest = whole.abs().argmax(dim=1, keepdim=True)
        ratio = (part.gather(1, largest).float() / whole.gather(1, largest).float()).squeeze(1)
        exponent = torch.where(felt, ratio, 1.0).log2().round()  # NaN where a mixture changes the sign
        unscaled = part / (2.0**exponent).to(whole.dtype).unsqueeze(1)
        tolerance = torch.finfo(whole.dtype).eps ** 0.5 * whole.abs().amax(dim=1)
        of_one_sample = (unscaled - whole).abs().amax(dim=1) <= tolerance
        if (felt & ~(of_one_sample & (exponent >= 0) & (exponent < digits))).any():
            self.owners[module] = None
        else:
            self.owners[module] = owner + torch.where(felt, exponent.long() * place, 0)


def verify(
    z: Tensor,
    calls: Calls,
    layout: LayoutCheck,
    parameters: dict[nn.Module, dict[str, Tensor]],
    moments: RuleMoments,
    epsilon: float,
) -> dict[nn.Module, Verdict]:
    """Check each layer under a random cotangent: first its layout, then its numbers.

    Layout: every row of the layer's output must belong to one sample alone, and no sample to two rows. This
    fails if tokens come first, or if the layer acts on what is no sample, such as a table of positions.
    Numbers: for the first and the last sample s, t that reach the layer, the rule must give G_s² + G_t², with
    G_s autograd's gradient for s alone. This fails if something changed the layer's output before we saw
    it, or if the rule is wrong.

    Args:
        z: the model's outputs.
        calls: the layers to check.
        layout: of at least these layers.
        parameters: of each layer, those that its rule gives, by their names in the model.
        moments: the rule.
        epsilon: the coarsest rounding in the model.
    """
    single: dict[tuple[nn.Module, int], Moments] = {}
    owners = {module: layout.owners[module] for module in calls}
    for sample, modules in _samples_to_differentiate(owners).items():
        v = torch.zeros_like(z)
        v[sample] = layout.noise[sample]
        wanted = {name: p for module in modules for name, p in parameters[module].items()}
        found = gradients_of(z, wanted, v)
        for module in modules:
            single[module, sample] = {name: found[name] for name in parameters[module] if name in found}

    verdicts = {}
    for module, call in calls.items():
        owner, g = owners[module], layout.gradients[module]
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
        rounding = epsilon * _mass(call.inputs[rows], g[rows])
        verdicts[module] = compare(got, want, len(rows) == min(2, len(z)), epsilon, rounding)
    return verdicts


def _mass(a: Tensor, g: Tensor) -> float:
    """The size of the terms whose sum a weight's gradient is: what cancels among them leaves their rounding."""
    largest = float(a.abs().max()) if a.is_floating_point() and a.numel() else 1.0
    return float(torch.linalg.vector_norm(g, dtype=state_dtype(g))) * max(1.0, largest)


def compare(got: Moments, want: Moments, enough: bool, epsilon: float, rounding: float) -> Verdict:
    """Compare √(Σ G²): they differ by the rounding of the largest entry, or of terms that cancel."""
    evidence = False
    tolerance = math.sqrt(epsilon) if epsilon < 1e-4 else 6 * epsilon  # √ε of a half precision would pass anything
    for name in got.keys() | want.keys():
        if name not in got or name not in want:
            return Verdict.WRONG
        if not (want[name].isfinite().all() or got[name].isfinite().all()):
            continue  # the model's numbers are beyond the rule's fault, and the result will say so
        largest = want[name].max().sqrt() if want[name].numel() else torch.zeros(())
        difference = (got[name].sqrt() - want[name].sqrt()).abs()
        if not (difference <= tolerance * largest + 8 * rounding).all():
            return Verdict.WRONG
        evidence |= bool(largest > 8 * rounding)
    return Verdict.HOLDS if evidence and enough else Verdict.OPEN


def _rows(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(-1).flatten(1)  # also of one number per sample


def _first_and_last(owner: Tensor) -> list[int]:
    rows = (owner >= 0).nonzero().flatten().tolist()
    return sorted({rows[0], rows[-1]}) if rows else []


def _samples_to_differentiate(owners: dict[nn.Module, Tensor | None]) -> dict[int, list[nn.Module]]:
    samples: dict[int, list[nn.Module]] = {}
    for module, owner in owners.items():
        for row in _first_and_last(owner) if owner is not None else []:
            samples.setdefault(int(owner[row]), []).append(module)
    return samples
