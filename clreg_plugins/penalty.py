"""The quadratic penalty that every method of this package adds to the loss.

The penalty is ``λ/2 · (Σ_i Ω_i (θ_i − μ_i)² + c)``. :class:`QuadraticPenalty` holds the importance Ω, the
anchor μ and the constant c of every parameter and is the only place where they change. It knows tensors and
their names, and nothing of models, strategies or importances.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


class QuadraticPenalty:
    """``Σ_i Ω_i (θ_i − μ_i)² + c`` over named parameters, in memory that does not grow with the number of terms.

    Attributes:
        importance: Ω, by parameter name; each has the shape of its parameter.
        anchor: μ, likewise.
        constant: c, a scalar tensor for each parameter. It does not change the gradient: it is what makes the
            value that of the explicit sum of all terms.
        n_terms: how many terms were consolidated so far. With none the penalty is zero and costs nothing.

    State is kept on the device of each parameter, in float32 or the parameter's own wider type.
    """

    def __init__(self) -> None:
        self.importance: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}
        self.constant: dict[str, Tensor] = {}
        self.n_terms: int = 0
        self._difference: dict[str, Tensor] = {}
        self._spare: dict[str, Tensor] = {}
        self._active: set[str] = set()
        self._with_constant: set[str] = set()

    # ------------------------------------------------------------------ growth

    def grow(self, parameters: Tensors) -> None:
        """Make room for parameters that are new or have grown.

        New entries have importance 0 and their present value as anchor; old entries keep theirs, in the leading
        corner of a tensor that has grown (a classifier that gained classes). State follows a parameter to its
        device. Parameters that the model no longer has are kept, without effect.

        Raises:
            ValueError: a parameter has shrunk or changed its number of dimensions; nothing is changed then.
        """
        for name, parameter in parameters.items():
            if name in self.importance and not _fits(self.importance[name].shape, parameter.shape):
                raise ValueError(
                    f"parameter {name!r} has shape {tuple(parameter.shape)}, but its importance has shape "
                    f"{tuple(self.importance[name].shape)}; a parameter may grow, not shrink or change its "
                    "number of dimensions"
                )
        for name, parameter in parameters.items():
            value = _as_state(parameter)
            known = self.importance.get(name)
            if known is not None and (known.shape, known.device, known.dtype) == (
                value.shape,
                value.device,
                value.dtype,
            ):
                continue
            importance = torch.zeros_like(value)
            if known is None:
                self.constant[name] = value.new_zeros(())
            else:
                corner = tuple(slice(0, size) for size in known.shape)
                importance[corner] = known.to(value.device)
                value[corner] = self.anchor[name].to(value.device)
                self.constant[name] = self.constant[name].to(value)
            self.importance[name], self.anchor[name] = importance, value
            for scratch in (self._difference, self._spare):
                scratch.pop(name, None)

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
                or a sum that the state's type cannot hold. The penalty is unchanged then.
        """
        _check_factor("weight", weight)
        importance, anchor = self._checked(importance, anchor, allow_negative=False)
        updated = {}
        for name, term in importance.items():
            known, centre = self.importance[name], self.anchor[name]
            term = term * weight
            total = known + term
            ratio = torch.where(total > 0, term / total, 0)
            # how far apart the anchors are matters only where both have importance; elsewhere it may overflow
            shift = torch.where((known != 0) & (term != 0), anchor[name] - centre, 0)
            constant = self.constant[name] + (known * ratio * shift * shift).sum()
            # where Ω was 0 its anchor is no more than a place holder, and must not leave its rounding behind
            updated[name] = total, torch.where(ratio == 1, anchor[name], centre + ratio * shift), constant
        self._end_term(updated)

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
        _check_factor("keep", keep, 1)
        _check_factor("weight", weight)
        importance, anchor = self._checked(importance, anchor, allow_negative=clip is not False)
        updated = {}
        for name, known in self.importance.items():
            total = known * keep
            if name in importance:
                total += importance[name] * weight
            if clip:
                total.clamp_(min=0)
            centre, constant = self.anchor[name], self.constant[name]
            if name in anchor:
                centre, constant = anchor[name], torch.zeros_like(constant)
            updated[name] = total, centre, constant
        self._end_term(updated)

    def _end_term(self, updated: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> None:
        """Take over the importance, the anchor and the constant of each parameter, if all of them are finite."""
        for name, tensors in updated.items():
            for kind, tensor in zip(("importance", "anchor", "constant"), tensors, strict=True):
                if not torch.isfinite(tensor).all():
                    raise FloatingPointError(f"the {kind} of {name!r} overflows {tensor.dtype}; its sum must be finite")
        for name, (importance, anchor, constant) in updated.items():
            self.importance[name].copy_(importance)
            self.anchor[name].copy_(anchor)
            self.constant[name].copy_(constant)
        self.n_terms += 1
        self._note_zeros()

    def _note_zeros(self) -> None:
        """See, once a term, what steps then need not wait for a device to know."""
        self._active = {name for name, importance in self.importance.items() if self.n_terms and importance.any()}
        self._with_constant = {name for name, constant in self.constant.items() if constant != 0}

    @property
    def active(self) -> set[str]:
        """Names of the parameters that have any importance; the others cost nothing and get no gradient."""
        return self._active

    def _checked(
        self, importance: Tensors, anchor: Tensors, *, allow_negative: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Both in the state's type and on its device."""
        for name in importance:
            if name not in anchor and name in self.importance:
                raise ValueError(f"importance of {name!r} comes without an anchor")
        checked: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
        for kind, tensors, found in zip(("importance", "anchor"), (importance, anchor), checked, strict=True):
            for name, tensor in tensors.items():
                if name not in self.importance:
                    raise ValueError(
                        f"{kind} of unknown parameter {name!r}; known: {', '.join(self.importance) or 'none'}"
                    )
                known = self.importance[name]
                if tensor.shape != known.shape:
                    raise ValueError(
                        f"{kind} of {name!r} has shape {tuple(tensor.shape)}, expected {tuple(known.shape)}"
                    )
                found[name] = tensor.detach().to(known)
                if not torch.isfinite(found[name]).all():
                    bad = tensor.detach().cpu().double()[~torch.isfinite(found[name]).cpu()][0].item()
                    raise FloatingPointError(
                        f"{kind} of {name!r} holds {bad}; every entry must be finite in {known.dtype}"
                    )
                if kind == "importance" and not allow_negative and (found[name] < 0).any():
                    raise ValueError(f"importance of {name!r} holds {found[name].min().item()}; it must be at least 0")
        return checked

    # ------------------------------------------------------ value and gradient

    @torch.no_grad()
    def value(self, parameters: Tensors) -> Tensor:
        """``Σ_i Ω_i (θ_i − μ_i)² + c`` as a scalar tensor, over the parameters given (by name).

        It takes memory of its own, of two copies of the parameters at the most, and leaves :meth:`scratch` alone.
        """
        return self._products(parameters, lambda name: (self._new(name), self._new(name)))[0]

    @torch.no_grad()
    def value_and_gradient(self, parameters: Tensors, strength: float) -> tuple[Tensor, dict[str, Tensor]]:
        """``strength/2 · (Σ_i Ω_i (θ_i − μ_i)² + c)``, and its gradient ``strength · Ω (θ − μ)`` by name.

        The gradients are new tensors, the caller's own: autograd adds the task's gradient to them in place and makes
        them ``p.grad``, which is as fast as a buffer of ours and never shares memory with one. θ − μ is left behind as
        the first tensor of :meth:`scratch`.

        Args:
            parameters: by name; those without importance are passed over.
            strength: λ.

        Returns:
            A scalar, and a tensor of the importance's shape and type for each parameter that has any.
        """
        value, gradients = self._products(
            parameters, lambda name: (self._scratch_of(name, self._difference), self._new(name)), strength
        )
        return value.mul_(strength / 2), gradients

    @torch.no_grad()
    def value_and_products(self, parameters: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """``Σ_i Ω_i (θ_i − μ_i)² + c``, and ``Ω (θ − μ)`` by name: nothing is multiplied by λ.

        Nothing is allocated either: θ − μ is left behind as the first tensor of :meth:`scratch`, and the products are
        the second. Whoever adds them to a gradient multiplies by λ in the same pass over memory.

        Args:
            parameters: by name; those without importance are passed over.

        Returns:
            As :meth:`value_and_gradient`.
        """
        return self._products(parameters, self.scratch)

    def _products(
        self,
        parameters: Tensors,
        tensors_of: Callable[[str], tuple[Tensor, Tensor]],
        factor: float | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Σ Ω (θ − μ)² + c, and factor · Ω (θ − μ), written with θ − μ into the tensors of each name."""
        total: Tensor | None = None
        products: dict[str, Tensor] = {}
        for name, parameter in self._shared(parameters):
            difference, product = tensors_of(name)
            # 8-bit types take part in no arithmetic
            theta = parameter.to(difference) if parameter.element_size() == 1 else parameter
            torch.sub(theta, self.anchor[name], out=difference)
            torch.mul(self.importance[name], difference, out=product)
            term = torch.dot(product.view(-1), difference.view(-1))
            if name in self._with_constant:
                term.add_(self.constant[name])
            total = term if total is None else total.add_(term.to(total.device))
            products[name] = product if factor is None else product.mul_(factor)
        return torch.zeros(()) if total is None else total, products

    def _new(self, name: str) -> Tensor:
        return torch.empty_like(self.importance[name])

    def scratch(self, name: str) -> tuple[Tensor, Tensor]:
        """Two tensors of the shape of a parameter, which the caller may overwrite until the next gradient is computed.

        The second once the products of :meth:`value_and_products` have been used. Allocated once: on a CPU fresh
        memory of a model's size costs more than the arithmetic done in it.
        """
        return self._scratch_of(name, self._difference), self._scratch_of(name, self._spare)

    def _scratch_of(self, name: str, kind: dict[str, Tensor]) -> Tensor:
        if name not in kind:
            kind[name] = self._new(name)
        return kind[name]

    def loss_term(self, parameters: Tensors, strength: float) -> Tensor:
        """``strength/2 · (Σ_i Ω_i (θ_i − μ_i)² + c)`` as a scalar that autograd can differentiate.

        Value and gradient are computed in closed form; autograd carries only the scale, so the term is right
        under any later scaling of the loss, and in ``torch.autograd.grad`` as well as in ``backward``.
        """
        value, gradients = self.value_and_gradient(parameters, strength)
        shared = {name: p for name, p in self._shared(parameters) if p.requires_grad}
        if not shared:
            return value
        gradients = {name: gradients[name] for name in shared}
        return _ClosedForm.apply(self, value, gradients, strength, list(shared), *shared.values())

    def _shared(self, parameters: Tensors) -> Iterator[tuple[str, Tensor]]:
        return ((name, p) for name, p in parameters.items() if name in self._active)

    # -------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers, which ``torch.load(..., weights_only=True)`` accepts."""
        return {
            "importance": {name: tensor.clone() for name, tensor in self.importance.items()},
            "anchor": {name: tensor.clone() for name, tensor in self.anchor.items()},
            "constant": {name: tensor.clone() for name, tensor in self.constant.items()},
            "n_terms": self.n_terms,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace everything by a :meth:`state_dict`.

        Raises:
            ValueError: keys are missing or unknown, names or shapes do not fit each other, or a number is not
                finite. The penalty is unchanged then.
        """
        expected = {"importance", "anchor", "constant", "n_terms"}
        if set(state) != expected:
            raise ValueError(f"state of a penalty has the keys {sorted(state)}, expected {sorted(expected)}")
        importance, anchor, constant = state["importance"], state["anchor"], state["constant"]
        groups = (importance, anchor, constant)
        if not all(isinstance(g, Mapping) and all(isinstance(v, Tensor) for v in g.values()) for g in groups):
            raise ValueError("importance, anchor and constant of the state must be tensors by parameter name")
        if not (importance.keys() == anchor.keys() == constant.keys()):
            raise ValueError("importance, anchor and constant of the state name different parameters")
        for name, tensor in importance.items():
            for kind, value in (("importance", tensor), ("anchor", anchor[name]), ("constant", constant[name])):
                if not (value.is_floating_point() and torch.isfinite(value).all()):
                    raise ValueError(f"{kind} of {name!r} in the state is not all finite floating-point numbers")
            if anchor[name].shape != tensor.shape or constant[name].shape != ():
                raise ValueError(
                    f"state of {name!r}: importance {tuple(tensor.shape)}, anchor {tuple(anchor[name].shape)} and "
                    f"constant {tuple(constant[name].shape)} do not fit; expected equal shapes and a scalar"
                )
        n_terms = state["n_terms"]
        if not isinstance(n_terms, int) or n_terms < 0:
            raise ValueError(f"n_terms of the state is {n_terms!r}; allowed: a whole number of at least 0")
        self._difference, self._spare = {}, {}
        self.importance = {name: tensor.clone() for name, tensor in importance.items()}
        self.anchor = {name: tensor.clone() for name, tensor in anchor.items()}
        self.constant = {name: tensor.clone() for name, tensor in constant.items()}
        self.n_terms = n_terms
        self._note_zeros()

    def __getstate__(self) -> dict[str, Any]:
        # scratch is not worth a place in a checkpoint
        return {**self.__dict__, "_difference": {}, "_spare": {}}


def known_to_be_one(scale: Tensor) -> bool:
    """Whether what a loss was scaled by is 1, as far as can be told without waiting: on a GPU asking is waiting."""
    return scale.device.type == "cpu" and scale.item() == 1


class _ClosedForm(torch.autograd.Function):
    """A scalar whose value is given and whose gradient is ``strength · Ω (θ − μ)``."""

    @staticmethod
    def forward(ctx, penalty, value, gradients, strength, names, *parameters):
        """Hand the value on."""
        ctx.penalty, ctx.gradients, ctx.strength, ctx.names = penalty, gradients, strength, names
        ctx.save_for_backward(*parameters)  # autograd then refuses a backward after θ has moved
        return value.clone()

    @staticmethod
    def backward(ctx, scale):
        """The closed form, times whatever the loss was scaled by."""
        # the first to differentiate gets the tensors themselves; create_graph=True needs some with a graph of their own
        with_graph = torch.is_grad_enabled()
        ready = {} if with_graph else ctx.gradients
        ctx.gradients = {}
        unscaled = not with_graph and known_to_be_one(scale)
        gradients = []
        for name, parameter in zip(ctx.names, ctx.saved_tensors, strict=True):
            gradient = ready.pop(name, None)
            if gradient is None:
                gradient = ctx.penalty.importance[name] * (parameter - ctx.penalty.anchor[name]) * ctx.strength
            if not unscaled:
                factor = scale.to(gradient.device)
                gradient = gradient * factor if with_graph else gradient.mul_(factor)
            gradients.append(gradient.to(parameter.dtype))
        return None, None, None, None, None, *gradients


def _as_state(parameter: Tensor) -> Tensor:
    """A contiguous copy in at least float32."""
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    return torch.empty(parameter.shape, dtype=dtype, device=parameter.device).copy_(parameter.detach())


def _check_factor(name: str, value: float, high: float = math.inf) -> None:
    if not (0 <= value <= high and value < math.inf):
        raise ValueError(
            f"{name} is {value!r}; allowed: a finite number >= 0" + ("" if high == math.inf else f" and <= {high}")
        )


def _fits(old: torch.Size, new: torch.Size) -> bool:
    return len(old) == len(new) and all(a <= b for a, b in zip(old, new, strict=True))
