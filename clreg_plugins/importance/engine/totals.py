"""What a pass adds up."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from clreg_plugins.factors import Importance, KroneckerFactors
from clreg_plugins.importance.engine.factors import FactorSums
from clreg_plugins.importance.engine.layer_rules import Moments
from clreg_plugins.importance.engine.model import named_parameters, plain_name, state_dtype

_SLOWNESS = {"unused": 0, "batch": 1, "rule": 2, "vectorised": 3, "one_at_a_time": 4}


class NoSampleCounts(ValueError):
    """Every target in the data is ``ignore_index``."""


class Totals:
    """Σ_n so far, by the names that parameters have without wrappers.

    Args:
        model: without wrappers.
        factor_sums: of layers that may have Kronecker factors, still 0.
    """

    def __init__(self, model: nn.Module, factor_sums: Mapping[str, FactorSums] | None = None) -> None:
        self.factor_sums = dict(factor_sums or {})
        parameters = named_parameters(model)
        self.trained = [name for name, p in parameters.items() if p.requires_grad]
        self.values: dict[str, Tensor] = {}
        for name, p in parameters.items():  # frozen ones, most of a model with adapters, share one zero
            shape = p.shape if p.requires_grad else ()
            self.values[name] = torch.zeros(shape, dtype=state_dtype(p), device=p.device).expand(p.shape)
        self.paths = dict.fromkeys(parameters, "unused")
        self.terms = 0
        self.samples = 0  # over all processes, known at the end

    def add(self, moments: Moments, path: str) -> None:
        """Add the moments of some samples, and note how they were computed."""
        for name, value in moments.items():
            name = plain_name(name)
            self.values[name] += value.to(self.values[name])
            if _SLOWNESS[path] > _SLOWNESS[self.paths[name]]:
                self.paths[name] = path

    def add_factors(self, factors: Mapping[str, FactorSums]) -> None:
        """Add the sums behind the factors of layers over some samples."""
        for layer, sums in factors.items():
            self.factor_sums[layer].add(sums)

    def factors(self, importance: Importance, reduce: Callable[[Tensor], None] | None) -> KroneckerFactors:
        """The factors of the layers that any process's samples reached.

        Args:
            importance: what :meth:`importance` gave before.
            reduce: sums a tensor over processes, in place.

        Raises:
            FloatingPointError: a factor is not finite.
        """
        layers = {}
        for layer, sums in self.factor_sums.items():
            for tensor in sums.tensors if reduce is not None else ():
                reduce(tensor)
            if not sums.outputs.any():  # no sample of any process reached it, or no output depends on it
                continue
            layers[layer] = sums.factors(self.samples)
            for kind, factor in (("A", layers[layer].inputs), ("G", layers[layer].outputs)):
                if not torch.isfinite(factor).all():
                    raise FloatingPointError(f"the factor {kind} of {layer!r} is not finite; every entry must be")
        return KroneckerFactors(layers, importance)

    def importance(self, reduce: Callable[[Tensor], None] | None, mode: str, reason: str | None) -> Importance:
        """The mean over all processes' samples.

        Raises:
            NoSampleCounts: all targets are to be ignored.
            FloatingPointError: an importance is not finite.
        """
        terms = self.terms
        if reduce is not None:
            for name in self.trained:
                reduce(self.values[name])
            device = next((v.device for v in self.values.values()), torch.device("cpu"))
            shared = torch.tensor(terms, dtype=torch.int64, device=device)
            reduce(shared)
            terms = int(shared)
        if not terms:
            raise NoSampleCounts("no sample of the data counts: all targets are ignore_index; at least one must not be")
        self.samples = terms
        for name in self.trained:
            value = self.values[name]
            value /= terms
            if not torch.isfinite(value).all():
                bad = value[~torch.isfinite(value)][0].item()
                raise FloatingPointError(f"the importance of {name!r} holds {bad}; every entry must be finite")
        return Importance(self.values, self.paths, mode, reason)
