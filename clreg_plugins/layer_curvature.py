"""The curvature of one layer as a Kronecker product, and one product in place of a sum of two."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clreg_plugins.factors import Factors
from clreg_plugins.flat import Place
from clreg_plugins.penalty import Tensors

TINY = torch.finfo(torch.float64).tiny

PIECE = 2**20
"""Entries of a factor that are held in float64 at once."""


@dataclass(frozen=True)
class LayerCurvature:
    """The curvature ``A ⊗ G`` of one layer, of all terms so far.

    Attributes:
        factors: A and G, and the names of the layer's parameters.
        merge_errors: of each merge of two terms that both reached the layer, the error of the product that replaces
            their sum, relative to the sum, in the Frobenius norm.
    """

    factors: Factors
    merge_errors: tuple[float, ...] = ()

    def matrix(self, tensors: Tensors) -> Tensor:
        """The layer's parameters as a matrix for each group, bias first: (groups, outputs, inputs)."""
        weight, bias, inputs, outputs = self.factors
        # the two may be of different types
        parts = [] if bias is None else [tensors[bias].to(outputs).reshape(*outputs.shape[:2], 1)]
        if weight is not None:
            w = tensors[weight].to(outputs)
            parts.append(w.mT.unsqueeze(0) if inputs.ndim == 1 else w.reshape(*outputs.shape[:2], -1))
        return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]

    def by_name(self, matrix: Tensor, places: Mapping[str, Place]) -> dict[str, Tensor]:
        """The parameters in a matrix as :meth:`matrix` gives it."""
        weight, bias, inputs, _ = self.factors
        found = {}
        if bias is not None:
            found[bias], matrix = matrix[:, :, 0].reshape(places[bias].shape), matrix[:, :, 1:]
        if weight is not None:
            found[weight] = matrix.squeeze(0).mT if inputs.ndim == 1 else matrix.reshape(places[weight].shape)
        return found

    def product(self, difference: Tensor) -> Tensor:
        """``G Δ A``, in the type of the factors."""
        inputs, outputs = self.factors.inputs, self.factors.outputs
        kind = outputs.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):  # of a strategy in training
            with torch.autocast(kind, enabled=False):
                return self.product(difference)
        left = outputs @ difference
        return left * inputs if inputs.ndim == 1 else left @ inputs

    def diagonal(self) -> Tensor:
        """The diagonal of ``A ⊗ G``, as a matrix like those of :meth:`matrix`."""
        inputs, outputs = self.factors.inputs, self.factors.outputs.diagonal(dim1=1, dim2=2)
        return outputs.unsqueeze(2) * (inputs if inputs.ndim == 1 else inputs.diagonal(dim1=1, dim2=2).unsqueeze(1))

    def decayed(self, keep: float) -> "LayerCurvature":
        """``keep · A ⊗ G``."""
        factors = self.factors._replace(outputs=self.factors.outputs * keep)
        return replace(self, factors=factors)

    def merged(self, new: Factors, keep: float, weight: float) -> "LayerCurvature":
        """The product nearest to ``keep · A₁ ⊗ G₁ + weight · A₂ ⊗ G₂``; ``new`` is the second, of the same shapes."""
        if not new.outputs.any():  # no gradient reached the layer
            return self.decayed(keep)
        if not self.factors.outputs.any():
            return replace(self, factors=new).decayed(weight)
        scales = torch.tensor([keep, weight], dtype=torch.float64, device=new.outputs.device)
        # each factor with trace 1, all traces in c, and the largest c apart: no square over- or underflows
        of_inputs, input_sizes = _inner_products(self.factors.inputs, new.inputs)
        of_outputs, output_sizes = _inner_products(self.factors.outputs, new.outputs)
        scales = scales * input_sizes * output_sizes
        largest = scales.amax().clamp(min=TINY)
        scales = scales / largest
        left, right = _nearest(of_inputs, of_outputs, scales)
        factors = Factors(
            *self.factors[:2],
            _combined(left / input_sizes.clamp(min=TINY), self.factors.inputs, new.inputs),
            _combined(right * largest / output_sizes.clamp(min=TINY), self.factors.outputs, new.outputs),
        )
        error = _relative_error(of_inputs, of_outputs, scales, left, right)
        return LayerCurvature(factors, (*self.merge_errors, error))


def _traces(factor: Tensor) -> Tensor:
    """The trace of a factor for each group, shape (groups,), in float64."""
    diagonal = factor.unsqueeze(0) if factor.ndim == 1 else factor.diagonal(dim1=1, dim2=2)
    return diagonal.double().sum(dim=1)


def _inner_products(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """⟨M_i, M_j⟩ of two matrices of trace 1 for each group, (groups, 2, 2), and their traces, in float64."""
    groups = 1 if first.ndim == 1 else len(first)
    sizes = torch.stack([_traces(first), _traces(second)], dim=1)
    total = torch.zeros(groups, 2, 2, dtype=torch.float64, device=first.device)
    for pieces in zip(*(m.reshape(groups, -1).split(PIECE, dim=1) for m in (first, second)), strict=True):
        rows = torch.stack(pieces, dim=1).double() / sizes.clamp(min=TINY).unsqueeze(2)
        total += rows @ rows.mT
    return total, sizes


def _nearest(of_inputs: Tensor, of_outputs: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients α, γ of the product ``(Σ α_i A_i) ⊗ (Σ γ_i G_i)`` nearest to ``Σ c_i A_i ⊗ G_i``.

    Rearranged, the sum is ``Σ c_i vec(A_i) vec(G_i)ᵀ``, whose nearest matrix of rank one is that of its leading
    singular pair. With S_A, S_G the roots of the inner products it is the leading pair u, v of ``S_A diag(c) S_G``.

    Args:
        of_inputs: ⟨A_i, A_j⟩, shape (groups, 2, 2).
        of_outputs: ⟨G_i, G_j⟩, likewise.
        scales: c, shape (groups, 2).

    Returns:
        α and γ, shape (groups, 2).
    """
    root_a, root_g = _root(of_inputs), _root(of_outputs)
    joint = root_a @ torch.diag_embed(scales) @ root_g
    if not torch.isfinite(joint).all():  # of finite factors: a sum that overflows
        overflow = torch.full_like(joint[:, 0], math.nan)
        return overflow, overflow
    u, sigma, v = torch.linalg.svd(joint)
    # they have one sign (Perron and Frobenius), since inner products of semidefinite matrices are not negative
    alpha = scales * _times(root_g, v[:, 0]).abs()
    gamma = scales * _times(root_a, u[:, :, 0]).abs()
    return alpha / sigma[:, :1].clamp(min=TINY), gamma


def _root(matrix: Tensor) -> Tensor:
    """The square root of symmetric, positive semidefinite 2×2 matrices."""
    determinant = matrix[:, 0, 0] * matrix[:, 1, 1] - matrix[:, 0, 1] * matrix[:, 1, 0]
    root = determinant.clamp(min=0).sqrt()
    trace = (matrix.diagonal(dim1=1, dim2=2).sum(dim=1) + 2 * root).sqrt()
    identity = torch.eye(2, dtype=matrix.dtype, device=matrix.device)
    return (matrix + root[:, None, None] * identity) / trace.clamp(min=TINY)[:, None, None]


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _combined(coefficients: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """``Σ_i x_i M_i`` for each group."""
    a, b = coefficients.mT.reshape(2, -1, *[1] * (first.ndim - 1))
    if max(a.max(), b.max()) < torch.finfo(first.dtype).max:
        return a.to(first) * first + b.to(first) * second
    return (a * first.double() + b * second.double()).to(first)  # a large coefficient of a small factor


def _relative_error(of_inputs: Tensor, of_outputs: Tensor, scales: Tensor, left: Tensor, right: Tensor) -> float:
    """``‖(Σ α_i A_i) ⊗ (Σ γ_i G_i) − Σ c_i A_i ⊗ G_i‖ / ‖Σ c_i A_i ⊗ G_i‖``, from inner products."""
    a, g = _times(of_inputs, left), _times(of_outputs, right)
    exact = (scales[:, :, None] * scales[:, None] * of_inputs * of_outputs).sum()
    cross = (scales * a * g).sum()
    own = ((left * a).sum(dim=1) * (right * g).sum(dim=1)).sum()
    return float(((exact - 2 * cross + own).clamp(min=0) / exact.clamp(min=TINY)).sqrt())
