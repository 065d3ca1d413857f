"""The quadratic penalty that every method of this package adds to the loss.

:class:`QuadraticPenalty` is the only place where importance and anchor change. It knows tensors and their names, and
nothing of models, strategies or importances.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from clreg_plugins.checks import boolean, dense, instance, listed, mapping, whole, within
from clreg_plugins.flat import FlatTensors, Place
from clreg_plugins.held import held, held_of_state, state_place
from clreg_plugins.penalty_step import ClosedForm, Step

Tensors = Mapping[str, Tensor]

DOT_ENTRIES = 2**18
"""Entries that one dot product of a CPU sums in float32; of 25 million equal ones a single one is off by 1.7%."""


class QuadraticPenalty:
    """``Σ_i Ω_i (θ_i − μ_i)² + c`` over named parameters, in memory that does not grow with the number of terms.

    Attributes:
        importance: Ω, by parameter name; each has the shape of its parameter.
        anchor: μ, likewise.
        constant: c, a scalar tensor for each parameter. It does not affect the gradient; it makes the value equal to
            the explicit sum of all terms.
        n_terms: number of consolidated terms. The penalty is zero before the first.
        active: names of the parameters that have any importance; the others get no gradient.

    State is kept on the device of each parameter, in float32 or the parameter's own wider type: one buffer for each
    device and type, with a view for each name.
    """

    _STATE: tuple[str, ...] = ("importance", "anchor", "constant", "n_terms")

    def __init__(self) -> None:
        self.importance = FlatTensors({})
        self.anchor = FlatTensors({})
        self.constant: dict[str, Tensor] = {}
        self.n_terms: int = 0
        self._note_zeros()

    def diagonal(self) -> dict[str, Tensor]:
        """A copy of Ω by parameter name, in a plain dict."""
        return self.importance.copies()

    # ------------------------------------------------------------------ growth

    def grow(self, parameters: Tensors) -> None:
        """Make room for parameters that are new or have grown.

        New entries have importance 0 and their present value as anchor; old entries keep theirs, in the leading
        corner of a tensor that has grown (a classifier that gained classes). State follows a parameter to its
        device. Parameters that the model no longer has are kept, without effect. Nothing is copied where nothing grew.

        Raises:
            ValueError: a parameter has shrunk or changed its number of dimensions, or has no dense floating-point
                numbers; nothing is changed then.
            FloatingPointError: one that is new or has grown is not finite, or the state so far does not fit into its
                type; nothing is changed then.
        """
        known = self.anchor.places
        for name, parameter in mapping("parameters", parameters).items():
            dense(f"parameter {name!r}", parameter)
            if name in known and not _fits(known[name].shape, parameter.shape):
                raise ValueError(
                    f"parameter {name!r} has shape {tuple(parameter.shape)}, but its importance has shape "
                    f"{tuple(known[name].shape)}; a parameter may grow, not shrink or change its number of dimensions"
                )
        places = {**known, **{name: state_place(parameter) for name, parameter in parameters.items()}}
        if places == known:
            return
        present = {
            name: held(f"parameter {name!r}", p, places[name])
            for name, p in parameters.items()
            if places[name] != known.get(name)
        }
        for name, place in places.items():
            if name in known and place.dtype != known[name].dtype:  # the state may not fit into a narrower type
                for kind, of_name in (
                    ("importance", self.importance),
                    ("anchor", self.anchor),
                    ("constant", self.constant),
                ):
                    if name in of_name:
                        held(f"the {kind} of {name!r}", of_name[name], place._replace(shape=of_name[name].shape))
        self._move(places, present)
        for name, (_, device, dtype) in places.items():
            constant = self.constant.get(name)
            self.constant[name] = (
                torch.zeros((), device=device, dtype=dtype) if constant is None else constant.to(device, dtype)
            )
        self._note_zeros()

    def _move(self, places: Mapping[str, Place], present: Tensors | None = None) -> None:
        """Give the state other places, where new entries of the anchor have the present values."""
        self.importance, self.anchor = self.importance.grown(places), self.anchor.grown(places, present)

    # ----------------------------------------------------------- consolidation

    @torch.no_grad()
    def add_term(self, importance: Tensors, anchor: Tensors, weight: float = 1.0) -> None:
        """Add the term ``weight · Σ_i F_i (θ_i − θ*_i)²``, which keeps its own anchor.

        The sum of quadratics is itself one quadratic, by the update of a weighted mean and variance::

            Ω' = Ω + F      μ' = μ + F/Ω' · (θ* − μ)      c' = c + Σ Ω·F/Ω' · (θ* − μ)²      (0/0 := 0)

        This is exact in real arithmetic. In floating point the only error that matters is the rounding of μ:
        after T terms its error is at most ``T · ε · max_t |θ*_t|`` (ε = 2⁻²⁴ in float32), which is far below the
        distance between anchors unless they lie within a few units in the last place of each other.

        Args:
            importance: F ≥ 0 by parameter name; a parameter without entry has importance 0.
            anchor: θ* for every parameter that has an importance.
            weight: λ_t ≥ 0 where terms have strengths of their own, else 1.

        Raises:
            ValueError, FloatingPointError: an unknown name, a wrong shape, a negative or non-finite entry or weight,
                a sum that the state's type cannot hold, or negative importance so far. The penalty is unchanged then.
        """
        weight = within("weight", weight, 0)
        importance, anchor = self._checked_term(importance, anchor)
        totals, centres, constants = {}, {}, {}
        for name, term in importance.items():
            known, centre = self.importance[name], self.anchor[name]
            if (known < 0).any():
                raise ValueError(
                    f"the importance of {name!r} so far holds {known.min().item()}; with terms that keep their own "
                    "anchors it must be at least 0"
                )
            term = term * weight
            total = known + term
            ratio = torch.where(total > 0, term / total, 0)
            # how far apart the anchors are matters only where both have importance; elsewhere it may overflow
            shift = torch.where((known != 0) & (term != 0), anchor[name] - centre, 0)
            constants[name] = self.constant[name] + (known * ratio * shift * shift).sum()
            # where Ω was 0 its anchor is no more than a place holder, and must not leave its rounding behind
            centres[name] = torch.where(ratio == 1, anchor[name], centre + ratio * shift)
            totals[name] = total
        self._end_term(totals, centres, constants)

    @torch.no_grad()
    def recenter(
        self,
        importance: Tensors,
        anchor: Tensors,
        *,
        keep: float = 1.0,
        weight: float = 1.0,
        clip: bool | None = False,
    ) -> None:
        """Put the whole penalty at the latest anchor: ``Ω' = keep·Ω + weight·F``, ``μ' = θ*``, ``c' = 0``.

        ``keep=1`` sums importances, ``keep=γ`` decays them, ``keep=0`` replaces them, and ``keep=n/(n+1)`` with
        ``weight=1/(n+1)`` averages them.

        Args:
            importance: F by parameter name; a parameter without entry has importance 0 in this term.
            anchor: θ* for every parameter of the penalty that the model still has.
            keep: factor of the importance so far, in [0, 1].
            weight: factor of the new importance, at least 0.
            clip: what to do with negative importances, which a path integral has. False: they are an error;
                True: negative totals become 0; None: they are kept.

        Raises:
            ValueError, FloatingPointError: as in :meth:`add_term`. The penalty is unchanged then.
        """
        keep, weight = within("keep", keep, 0, 1), within("weight", weight, 0)
        if clip is not None:
            boolean("clip", clip)
        importance, anchor = self._checked_term(importance, anchor, 0 if clip is False else -math.inf)
        totals = {}
        for name, known in self.importance.items():
            total = known * keep
            if name in importance:
                total += importance[name] * weight
            if clip:
                total.clamp_(min=0)
            totals[name] = total
        constants = {
            name: torch.zeros_like(constant) if name in anchor else constant * keep
            for name, constant in self.constant.items()
        }
        self._end_term(totals, anchor, constants)

    def _end_term(self, importance: Tensors, anchor: Tensors, constant: Tensors) -> None:
        """Take over importances, anchors and constants, if all of them are finite."""
        kinds = {"importance": importance, "anchor": anchor, "constant": constant}
        for kind, tensors in kinds.items():
            for name, tensor in tensors.items():
                if not torch.isfinite(tensor).all():
                    raise FloatingPointError(f"the {kind} of {name!r} overflows {tensor.dtype}; its sum must be finite")
        for kind, tensors in kinds.items():
            for name, tensor in tensors.items():
                getattr(self, kind)[name].copy_(tensor)
        self.n_terms += 1
        self._note_zeros()

    def _note_zeros(self) -> None:
        """Note which parameters have importance, so that no step waits for a device to know."""
        self.active = tuple(name for name, importance in self.importance.items() if self.n_terms and importance.any())
        self._constants = {name: self.constant[name] for name in self.active if self.constant[name] != 0}
        self._all_constants = sum_of(self._constants.values())

    def _checked(self, kind: str, tensors: Tensors, minimum: float = -math.inf) -> dict[str, Tensor]:
        """Importances or anchors in the state's type and on its device."""
        state = self.importance if kind == "importance" else self.anchor
        checked = {}
        for name, tensor in tensors.items():
            what = f"{kind} of {name!r}"
            if name in state:
                checked[name] = held(what, tensor, state.places[name], minimum)
            elif kind == "anchor" or dense(what, tensor).any():  # else of a frozen parameter, which has no state
                known = listed(state) or "none; call grow() first"
                raise ValueError(f"{kind} of unknown parameter {name!r}; known: {known}")
        return checked

    def _checked_term(
        self, importance: Tensors, anchor: Tensors, minimum: float = 0
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        for name in mapping("importance", importance):
            if name not in mapping("anchor", anchor) and name in self.importance:
                raise ValueError(f"importance of {name!r} comes without an anchor; it needs one")
        return self._checked("importance", importance, minimum), self._checked("anchor", anchor)

    # ------------------------------------------------------ value and gradient

    @torch.no_grad()
    def step(self, parameters: Tensors, strength: float, into: Step | None = None) -> Step:
        """Value and gradient of ``strength/2 · (Σ_i Ω_i (θ_i − μ_i)² + c)`` over the parameters given.

        The number of operations does not depend on the number of parameters.

        Args:
            parameters: θ by name, as ``dict(model.named_parameters())`` has them; those without importance are
                ignored, and what is missing contributes 0.
            strength: λ ≥ 0.
            into: a :meth:`work_space` or an earlier result, which is overwritten. New memory if None, which on a CPU
                costs more than the arithmetic.

        Raises:
            TypeError: the parameters have no names.
            ValueError: a parameter has another shape than its importance (call :meth:`grow` first), none of them has
                importance though others have, or λ is negative or not finite.
        """
        given = self._given(parameters)
        strength = within("strength", strength, 0)
        if into is None:
            into = self.work_space()
        instance("into", into, Step, "a work_space() of this penalty, or an earlier result")
        places = into.product.places
        if places is not self.anchor.places and list(places.items()) != list(self.anchor.places.items()):
            raise ValueError(
                "into is a work space of other parameters, or has them in another order; allowed: a work_space() made "
                "since they grew, since their importances became factors, and since a state was loaded"
            )
        _, difference, product, _ = into
        if self.active and not given:
            raise ValueError(
                f"none of the parameters given ({listed(parameters)}) has importance; known: {listed(self.active)}; "
                "give dict(model.named_parameters()), without the prefixes that wrappers add"
            )
        for name in given:
            if parameters[name].shape != self.anchor.places[name].shape:
                raise ValueError(
                    f"parameter {name!r} has shape {tuple(parameters[name].shape)}, but its importance has shape "
                    f"{tuple(self.anchor.places[name].shape)}; call grow() when a parameter has grown"
                )
        if len(given) < len(self.anchor):  # the others stand at their anchor, where they contribute 0
            for kind, anchor in self.anchor.buffers.items():
                product.buffers[kind].copy_(anchor)
        if given:
            torch._foreach_copy_([product[n] for n in given], [castable(parameters[n]) for n in given])
        if given == self.active:
            terms = [] if self._all_constants is None else [self._all_constants]
        else:
            terms = [constant for name, constant in self._constants.items() if name in given]
        for kind, anchor in self.anchor.buffers.items():
            d, p = difference.buffers[kind], product.buffers[kind]
            torch.sub(p, anchor, out=d)
            if kind not in self.importance.buffers:
                continue
            # a subclass may have importances of the first parameters alone
            importance = self.importance.buffers[kind]
            d, p = d[: len(importance)], p[: len(importance)]
            torch.mul(importance, d, out=p)
            entries = DOT_ENTRIES if p.device.type == "cpu" else 2**30
            terms += [torch.dot(*pieces) for pieces in zip(p.split(entries), d.split(entries), strict=True)]
        total = sum_of(terms)
        if total is None:  # on the device, or adding it to anything there would wait for a copy
            total = torch.zeros((), device=next((device for device, _ in self.anchor.buffers), None))
        return Step(total * (strength / 2), difference, product, strength)

    def work_space(self) -> Step:
        """Buffers for :meth:`step`, twice the size of the parameters. A penalty that has grown needs new ones."""
        places = self.anchor.places
        return Step(torch.zeros(()), FlatTensors(places), FlatTensors(places), 0.0)

    def value(self, parameters: Tensors) -> Tensor:
        """``Σ_i Ω_i (θ_i − μ_i)² + c`` as a scalar tensor, over the parameters given (by name), without a graph.

        A loss takes :meth:`loss_term`, which autograd can differentiate.
        """
        return self.step(parameters, 2.0).value

    def loss_term(self, parameters: Tensors, strength: float) -> Tensor:
        """``strength/2 · (Σ_i Ω_i (θ_i − μ_i)² + c)`` as a scalar that autograd can differentiate.

        Raises:
            TypeError, ValueError: as in :meth:`step`, and parameters that are copies without a gradient.
        """
        given = [parameters[name] for name in self._given(parameters)]
        if given and not any(p.requires_grad or isinstance(p, torch.nn.Parameter) for p in given):
            raise ValueError(
                "none of the parameters given requires a gradient, as in a state_dict(); allowed: "
                "dict(model.named_parameters()), or value() for the number alone"
            )
        return self.differentiable(self.step(parameters, strength), parameters)

    def differentiable(self, step: Step, parameters: Tensors) -> Tensor:
        """The value of a step, differentiable with respect to the parameters that it was taken at.

        The gradient is the step's; autograd carries only the scale, so it is right under any later scaling of the
        loss, and in ``torch.autograd.grad`` as well as in ``backward``.
        """
        instance("step", step, Step, "what step() returns for these parameters")
        names = self._given(parameters)
        if not any(parameters[name].requires_grad for name in names):
            return step.value
        return ClosedForm.apply(self, step, names, *(parameters[name] for name in names))

    def _given(self, parameters: Tensors) -> tuple[str, ...]:
        """Names of the parameters given that have importance."""
        instance("parameters", parameters, Mapping, "dict(model.named_parameters())")
        given = tuple(name for name in self.active if name in parameters)
        for name in given:
            if not isinstance(parameters[name], Tensor):  # a step takes this path: no message is made before it is due
                instance(f"parameter {name!r}", parameters[name], Tensor, "a tensor")
        return given

    def _products(self, differences: Tensors) -> dict[str, Tensor]:
        """Ω (θ − μ) by name, as autograd can differentiate it, of the differences of all active parameters."""
        return {name: self.importance[name] * difference for name, difference in differences.items()}

    # -------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers, which ``torch.load(..., weights_only=True)`` accepts."""
        return {
            "importance": self.importance.copies(),
            "anchor": self.anchor.copies(),
            "constant": {name: tensor.clone() for name, tensor in self.constant.items()},
            "n_terms": self.n_terms,
        }

    def load_state_dict(self, state: Mapping[str, Any], *, negative: bool = False) -> None:
        """Replace everything by a :meth:`state_dict`.

        Args:
            state: tensors of any floating-point type, on any device; copied.
            negative: whether importances may be negative, as ``clip=None`` in :meth:`recenter` keeps them.

        Raises:
            ValueError: keys are missing or unknown, names, types or shapes do not fit each other, or a number is
                not finite, or negative where it may not be. The penalty is unchanged then.
        """
        boolean("negative", negative)
        if set(mapping("state of a penalty", state)) != set(self._STATE):
            raise ValueError(f"state of a penalty has the keys {sorted(state)}, expected {sorted(self._STATE)}")
        self._load(state, negative)

    def _load(self, state: Mapping[str, Any], negative: bool, bare: Collection[str] = ()) -> None:
        """Check a state that has the right keys, and take it over. Parameters in ``bare`` may have no importance."""
        importance, anchor, constant = (
            mapping(f"{kind} of the state", state[kind]) for kind in ("importance", "anchor", "constant")
        )
        with_importance = importance.keys() | (anchor.keys() & set(bare))
        if missing := sorted((anchor.keys() ^ constant.keys()) | (anchor.keys() ^ with_importance)):
            raise ValueError(
                "importance, anchor and constant of the state must hold tensors by the same parameter names; not all "
                f"of them have {listed(missing)}"
            )
        n_terms = whole("n_terms of the state", state["n_terms"], 0)
        names = [*importance, *(name for name in anchor if name not in importance)]
        places = {name: state_place(dense(f"anchor of {name!r} in the state", anchor[name])) for name in names}
        scalars = {name: place._replace(shape=torch.Size()) for name, place in places.items()}
        own = places if len(places) == len(importance) else {name: places[name] for name in importance}
        least = -math.inf if negative else 0
        importance = held_of_state("importance", importance, own, least)
        anchor = held_of_state("anchor", anchor, places)
        constant = held_of_state("constant", constant, scalars, least)
        if not n_terms and any(value.any() for value in importance.values()):
            raise ValueError("n_terms of the state is 0, but it has importance; allowed: at least 1")
        self.importance = FlatTensors({}).grown(own, importance)
        self.anchor = FlatTensors({}).grown(places, anchor)
        self.constant = {name: value.clone() for name, value in constant.items()}
        self.n_terms = n_terms
        self._note_zeros()

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["importance"], FlatTensors):
            self.__dict__.update(state)
        else:  # a pickle of version 0.1
            self.__init__()
            self.load_state_dict({key: state[key] for key in self._STATE}, negative=True)


def sum_of(terms: Iterable[Tensor]) -> Tensor | None:
    """The sum of scalars on any devices; None of none."""
    total = None
    for term in terms:
        total = term if total is None else total + term.to(total.device)
    return total


def castable(parameter: Tensor) -> Tensor:
    """An 8-bit parameter in float32, any other as it is: ``_foreach`` operations do not support 8-bit types."""
    return parameter.float() if parameter.element_size() == 1 else parameter


def _fits(old: torch.Size, new: torch.Size) -> bool:
    return len(old) == len(new) and all(a <= b for a, b in zip(old, new, strict=True))
