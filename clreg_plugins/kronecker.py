"""The quadratic penalty whose curvature has Kronecker factors, layer by layer.

:class:`KroneckerPenalty` is :class:`QuadraticPenalty` with a second kind of term, one of a whole layer.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from clreg_plugins.checks import dense, instance, listed, mapping, shown, within
from clreg_plugins.factors import Factors, KroneckerFactors, Shapes, embedding_shapes, factor_shapes
from clreg_plugins.flat import Place
from clreg_plugins.layer_curvature import TINY, LayerCurvature
from clreg_plugins.penalty import QuadraticPenalty, Tensors, sum_of
from clreg_plugins.penalty_step import Step


class KroneckerPenalty(QuadraticPenalty):
    """``Σ_layers tr(Δᵀ G Δ A)`` with Δ = W − W*, and ``Σ_i Ω_i (θ_i − θ*_i)²`` over parameters without factors.

    Memory and time do not grow with the number of terms: the Kronecker product nearest to a sum of two in the Frobenius
    norm replaces it (Van Loan and Pitsianis 1993). All terms are at the latest anchor. With an anchor for each term the
    curvature would still need one product, whose error would then act on the distance from the first anchor, which only
    grows; here it acts on θ − θ*.

    Attributes:
        layers: :class:`LayerCurvature` by name of the layer.
        importance: Ω of the parameters that are not, or not on all samples, in a layer with factors.

    The other attributes are those of :class:`QuadraticPenalty`.
    """

    _STATE = (*QuadraticPenalty._STATE, "layers")

    def __init__(self) -> None:
        self.layers: dict[str, LayerCurvature] = {}
        super().__init__()

    def diagonal(self) -> dict[str, Tensor]:
        """The diagonal of the whole curvature by parameter name."""
        own = self.importance.copies()
        found = {name: own.get(name, torch.zeros_like(anchor)) for name, anchor in self.anchor.items()}
        for layer in self.layers.values():
            for name, part in layer.by_name(layer.diagonal(), self.anchor.places).items():
                found[name] += part
        return found

    # ------------------------------------------------------------------ growth

    def _move(self, places: Mapping[str, Place], present: Tensors | None = None) -> None:
        layers = {}
        for name, layer in self.layers.items():
            weight = layer.factors.weight
            if weight is not None and places[weight].shape[2:] != self.anchor.places[weight].shape[2:]:
                raise ValueError(
                    f"the kernel of {name!r} has grown: its weight has shape {tuple(places[weight].shape)}, its anchor "
                    f"{tuple(self.anchor.places[weight].shape)}; allowed with Kronecker factors: more channels"
                )
            factors = _fitted(name, layer.factors, layer.factors[:2], places)
            _require_finite(name, factors)
            layers[name] = replace(layer, factors=factors)
        self._arrange(places, {name for name in self.anchor if name not in self.importance}, present)
        self.layers = layers

    def _arrange(self, places: Mapping[str, Place], bare: set[str], present: Tensors | None = None) -> None:
        """Give the state these places, with the parameters that have no importance of their own at the end."""
        own = {name: place for name, place in places.items() if name not in bare}
        self.importance = self.importance.grown(own)
        self.anchor = self.anchor.grown(own | {name: places[name] for name in places if name in bare}, present)

    # ----------------------------------------------------------- consolidation

    def add_term(self, importance: Any, anchor: Tensors, weight: float = 1.0) -> None:
        """Not offered: all terms are at the latest anchor."""
        raise TypeError("a KroneckerPenalty keeps no anchor for each term; use recenter()")

    @torch.no_grad()
    def recenter(
        self,
        importance: KroneckerFactors,
        anchor: Tensors,
        *,
        keep: float = 1.0,
        weight: float = 1.0,
        clip: bool | None = False,
    ) -> None:
        """Put the whole penalty at the latest anchor: ``keep · H + weight · F`` for each layer, ``W* = θ*``.

        Args:
            importance: F, as :func:`kronecker_factors` returns it.
            anchor: θ* for every parameter of the penalty that the model still has.
            keep: factor of the curvature so far, in [0, 1].
            weight: factor of the new curvature, at least 0.
            clip: of the parameters without factors, as in :meth:`QuadraticPenalty.recenter`.

        Raises:
            TypeError: ``importance`` is of another kind.
            ValueError, FloatingPointError: as in :meth:`QuadraticPenalty.recenter`, and factors that do not fit the
                parameters or are no curvature. The penalty is unchanged then.
        """
        instance("importance", importance, KroneckerFactors, "what kronecker_factors() returns")
        keep, weight = within("keep", keep, 0, 1), within("weight", weight, 0)
        mapping("anchor", anchor)
        layers = {name: layer.decayed(keep) for name, layer in self.layers.items()}
        for name, factors in mapping("importance", importance).items():
            layers[name] = self._merged(name, _usable(name, factors), anchor, keep, weight)
        factored = _factored(layers)
        diagonal = {
            name: value
            for name, value in mapping("the diagonal of importance", importance.diagonal).items()
            if name not in factored or dense(f"importance of {name!r}", value).any()
        }
        bare = {n for n in factored if n not in diagonal and not (n in self.importance and self.importance[n].any())}
        before = self.importance, self.anchor, self.layers
        self.layers = layers
        try:
            if bare != {name for name in self.anchor if name not in self.importance}:
                self._arrange(self.anchor.places, bare)
            super().recenter(diagonal, anchor, keep=keep, weight=weight, clip=clip)
        except BaseException:
            self.importance, self.anchor, self.layers = before
            raise

    def _merged(self, name: str, new: Factors, anchor: Tensors, keep: float, weight: float) -> LayerCurvature:
        """The curvature of a layer after a term."""
        for parameter in new.parameters:
            if parameter not in self.anchor or parameter not in anchor:
                raise ValueError(
                    f"layer {name!r} has factors for {parameter!r}, but {parameter!r} has no anchor; it needs one"
                )
        new = _checked(name, new, self.anchor.places)
        old = self.layers.get(name)
        names = (new.weight, new.bias)
        if old is not None:
            known = old.factors
            names = (known.weight or new.weight, known.bias or new.bias)
            old = replace(old, factors=_fitted(name, known, names, self.anchor.places))
        new = _fitted(name, new, names, self.anchor.places)
        if old is not None and old.factors.inputs.ndim != new.inputs.ndim:
            raise ValueError(f"layer {name!r} is an embedding in one of two terms alone; it must be in both or none")
        if old is not None and old.factors.outputs.shape != new.outputs.shape:
            raise ValueError(
                f"layer {name!r} has {len(new.outputs)} groups of {new.outputs.shape[1]} outputs, but had "
                f"{len(old.factors.outputs)} of {old.factors.outputs.shape[1]}; allowed: the same groups"
            )
        layer = LayerCurvature(new).decayed(weight) if old is None else old.merged(new, keep, weight)
        _require_finite(name, layer.factors)
        if not all(map(math.isfinite, layer.merge_errors[-1:])):
            raise FloatingPointError(f"the weight of {name!r}, or the error of its merge, overflows float64")
        return layer

    def _note_zeros(self) -> None:
        super()._note_zeros()
        factored = {
            n for layer in self.layers.values() if layer.factors.outputs.any() for n in layer.factors.parameters
        }
        self.active = tuple(name for name in self.anchor if name in self.active or name in factored)

    # ------------------------------------------------------ value and gradient

    @torch.no_grad()
    def step(self, parameters: Tensors, strength: float, into: Step | None = None) -> Step:
        """As :meth:`QuadraticPenalty.step`, with two matrix products for each layer."""
        step = super().step(parameters, strength, into)
        values = []
        for layer in self.layers.values():
            difference = layer.matrix(step.difference)
            product = layer.product(difference)
            values.append((product * difference).sum() * (strength / 2))
            for name, part in layer.by_name(product, self.anchor.places).items():
                if name in self.importance:
                    step.product[name].add_(part)
                else:
                    step.product[name].copy_(part)
        return step._replace(value=sum_of([*values, step.value]))

    def _products(self, differences: Tensors) -> dict[str, Tensor]:
        products = super()._products({n: d for n, d in differences.items() if n in self.importance})
        for layer in self.layers.values():
            names = layer.factors.parameters
            if not any(name in differences for name in names):
                continue
            matrix = layer.matrix({n: differences.get(n, torch.zeros_like(self.anchor[n])) for n in names})
            for name, part in layer.by_name(layer.product(matrix), self.anchor.places).items():
                if name in differences:
                    products[name] = products[name] + part if name in products else part
        return products

    # -------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors, numbers and strings, which ``torch.load(..., weights_only=True)`` accepts."""
        layers = {
            name: {
                **layer.factors._asdict(),
                "inputs": layer.factors.inputs.clone(),
                "outputs": layer.factors.outputs.clone(),
                "merge_errors": list(layer.merge_errors),
            }
            for name, layer in self.layers.items()
        }
        return super().state_dict() | {"layers": layers}

    def _load(self, state: Mapping[str, Any], negative: bool, bare: Collection[str] = ()) -> None:
        other = type(self)()
        layers = {
            name: _layer_of(name, entry) for name, entry in mapping("layers of the state", state["layers"]).items()
        }
        super(KroneckerPenalty, other)._load(state, negative, {*bare, *_factored(layers)})
        for name, layer in layers.items():
            if missing := [n for n in layer.factors.parameters if n not in other.anchor]:
                raise ValueError(f"the layer {name!r} in the state is about {missing[0]!r}, which has no anchor there")
            try:
                factors = _checked(name, layer.factors, other.anchor.places)
            except (ValueError, FloatingPointError) as error:
                raise ValueError(f"state of a penalty: {error}") from error
            other.layers[name] = replace(layer, factors=factors)
        if layers and not other.n_terms:
            raise ValueError("n_terms of the state is 0, but it has layers; allowed: at least 1")
        other._note_zeros()
        self.__dict__.update(vars(other))


def _layer_of(name: str, entry: Any) -> LayerCurvature:
    """One layer of a state, checked."""
    expected = {*Factors._fields, "merge_errors"}
    if not isinstance(entry, Mapping) or set(entry) != expected:
        raise ValueError(f"the layer {name!r} in the state needs the keys {sorted(expected)}")
    errors = entry["merge_errors"]
    if not isinstance(errors, list) or not all(isinstance(e, float) and 0 <= e < math.inf for e in errors):
        raise ValueError(
            f"merge_errors of the layer {name!r} in the state is {shown(errors)}; allowed: a list of floats >= 0"
        )
    factors = _usable(f"{name} of the state", Factors(*(entry[field] for field in Factors._fields)))
    factors = factors._replace(inputs=factors.inputs.clone(), outputs=factors.outputs.clone())
    return LayerCurvature(factors, tuple(errors))


# ----------------------------------------------------------------- checks of factors


def _usable(name: str, factors: Any) -> Factors:
    """Factors of dense tensors, without their graphs, and of named parameters.

    Raises:
        TypeError: they are something else.
        ValueError: a part of them is.
    """
    instance(f"layer {name!r}", factors, Factors, "Factors")
    names = factors[:2]
    if not all(isinstance(parameter, str | None) for parameter in names) or names == (None, None):
        raise ValueError(f"weight and bias of the layer {name!r} are {shown(names)}; allowed: names, one perhaps None")
    a, g = (dense(f"the factor {kind} of {name!r}", factor) for kind, factor in zip("AG", factors[2:], strict=True))
    return Factors(*names, a, g)


def _factored(layers: Mapping[str, LayerCurvature]) -> set[str]:
    """Names of the parameters that have factors.

    Raises:
        ValueError: one is in two layers.
    """
    found: dict[str, str] = {}
    for name, layer in layers.items():
        for parameter in layer.factors.parameters:
            if parameter in found:
                raise ValueError(f"layers {found[parameter]!r} and {name!r} both have factors for {parameter!r}")
            found[parameter] = name
    return set(found)


def _shapes(factors: Factors, names: tuple[str | None, str | None], places: Mapping[str, Place]) -> Shapes:
    """The shapes of A and G that these parameters need, with the groups of ``factors``."""
    weight, bias = names
    shape = places[bias if weight is None else weight].shape
    if factors.inputs.ndim == 1 and weight is not None and bias is None and len(shape) == 2:
        return embedding_shapes(shape)
    grouped = factors.outputs.ndim == 3 and len(factors.outputs) > 1
    shape = shape or torch.Size((0,))  # no layer's, so that nothing fits
    groups = shape[0] // max(factors.outputs.shape[1], 1) if grouped else 1
    return factor_shapes(shape, max(groups, 1), weight is not None, bias is not None)


def _require_finite(name: str, factors: Factors) -> None:
    """Raise FloatingPointError where factors made of finite ones are not finite."""
    for kind, factor in (("A", factors.inputs), ("G", factors.outputs)):
        if not torch.isfinite(factor).all():
            raise FloatingPointError(f"the factor {kind} of {name!r} overflows {factor.dtype}")


def _checked(name: str, factors: Factors, places: Mapping[str, Place]) -> Factors:
    """Factors in the type and on the device of their parameters.

    Raises:
        ValueError: they do not fit the parameters, or are not those of a curvature.
        FloatingPointError: they are not finite in that type.
    """
    sizes = _shapes(factors, factors[:2], places)
    if (tuple(factors.inputs.shape), tuple(factors.outputs.shape)) != sizes:
        raise ValueError(
            f"the factors of {name!r} have shapes {tuple(factors.inputs.shape)} and {tuple(factors.outputs.shape)}, "
            f"expected {sizes[0]} and {sizes[1]} for {listed(factors.parameters)}"
        )
    factors = _fitted(name, factors, factors[:2], places)
    for kind, factor in (("A", factors.inputs), ("G", factors.outputs)):
        if not torch.isfinite(factor).all():
            bad = factor[~torch.isfinite(factor)][0].item()
            raise FloatingPointError(f"the factor {kind} of {name!r} holds {bad}; every entry must be finite")
        diagonal = factor if factor.ndim == 1 else factor.diagonal(dim1=1, dim2=2)
        if (diagonal < 0).any():
            raise ValueError(f"the diagonal of {kind} of {name!r} holds {diagonal.min().item()}; it must be at least 0")
        if factor.ndim < 3:
            continue
        largest = diagonal.amax(dim=1)[:, None, None]
        if ((factor - factor.mT).abs() > 1e-3 * largest).any():
            raise ValueError(f"the factor {kind} of {name!r} is not symmetric; it must be")
        root = diagonal.sqrt()
        bound = root.unsqueeze(2) * root.unsqueeze(1)
        shifted = factor.to(torch.float64, copy=True)
        shifted.diagonal(dim1=1, dim2=2).add_(1e-3 * (largest[..., 0].double() + TINY))
        definite = (factor.abs() <= 1.001 * bound + 1e-3 * largest).all()  # |m_ij| ≤ √(m_ii m_jj)
        if not definite or torch.linalg.cholesky_ex(shifted).info.any():
            raise ValueError(f"the factor {kind} of {name!r} is not positive semidefinite; it must be")
    return factors


def _fitted(name: str, factors: Factors, names: tuple[str | None, str | None], places: Mapping[str, Place]) -> Factors:
    """Factors with the shapes of parameters that have grown, or with rows of 0 for one that joins them.

    Args:
        name: of the layer.
        factors: of some or all of these parameters.
        names: of the weight and the bias; None for one that takes no part.
        places: of all parameters.

    Raises:
        ValueError: the factors do not fit the parameters.
    """
    weight, bias = names
    inputs, outputs = factors.inputs, factors.outputs
    place = places[bias if weight is None else weight]
    kind = {"dtype": place.dtype, "device": place.device}
    sizes = _shapes(factors, names, places)
    ahead = int(bias is not None and factors.bias is None)
    starts = (0, *[ahead] * (inputs.ndim - 1)), (0, 0, 0)
    fits = all(
        len(size) == factor.ndim and all(n + first <= m for n, first, m in zip(factor.shape, start, size, strict=True))
        for factor, start, size in zip((inputs, outputs), starts, sizes, strict=True)
    )
    if not fits or (len(outputs) > 1 and sizes[1][1:] != tuple(outputs.shape[1:])):
        raise ValueError(
            f"the factors of {name!r} have shapes {tuple(inputs.shape)} and {tuple(outputs.shape)}, but its parameters "
            f"need {sizes[0]} and {sizes[1]}"
        )
    return Factors(weight, bias, _corner(inputs, sizes[0], ahead, kind), _corner(outputs, sizes[1], 0, kind))


def _corner(factor: Tensor, size: tuple[int, ...], start: int, kind: Mapping[str, Any]) -> Tensor:
    """A factor in the corner of zeros, ``start`` rows down."""
    if factor.shape == size:
        return factor.to(**kind)
    grown = torch.zeros(size, **kind)
    corner = (slice(len(factor)), *(slice(start, start + n) for n in factor.shape[1:]))
    grown[corner] = factor.to(**kind)
    return grown
