"""The rule of normalisation layers."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from clreg_plugins.importance.engine.layer_rules.rule import LayerRule, Moments


class NormRule(LayerRule):
    """Normalisation with weight and bias: G = Σ over positions of g·x̂ and of g, with x̂ the normalised input."""

    def __init__(self, normalise: Callable[[nn.Module, Tensor], Tensor], last_dimensions: bool) -> None:
        self.normalise = normalise
        self.last_dimensions = last_dimensions  # LayerNorm's parameters span the last dimensions, else dimension 1

    def applies(self, module: nn.Module) -> bool:
        """BatchNorm without running statistics mixes the samples of a batch."""
        return not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.running_mean is not None

    def dimensions(self, module: nn.Module) -> int:
        """Samples, and the dimensions of the parameters."""
        return 1 + len(module.weight.shape)

    def prepare(self, module: nn.Module, a: Tensor) -> Tensor:
        """The normalised input x̂."""
        return self.normalise(module, a)

    def gradients(self, module: nn.Module, prepared: Tensor, g: Tensor) -> Moments:
        """``Σ_positions g x̂`` and ``Σ_positions g``."""
        last = g.ndim - module.weight.ndim
        positions = tuple(range(2, last) if self.last_dimensions else range(3, g.ndim))
        product = g * prepared.unsqueeze(1)
        if positions:
            product, g = product.sum(dim=positions), g.sum(dim=positions)
        return {"weight": product, "bias": g}

    def bytes_per_sample(self, module: nn.Module, a: Tensor, g: Tensor) -> int:
        """The normalised input, output gradients, and their products."""
        return 4 * g.element_size() * a.shape[1:].numel()


def _batch_norm(module: nn.Module, a: Tensor) -> Tensor:
    mean, variance = module.running_mean.to(a.dtype), module.running_var.to(a.dtype)
    return F.batch_norm(a, mean, variance, training=False, eps=module.eps)


def _layer_norm(module: nn.Module, a: Tensor) -> Tensor:
    return F.layer_norm(a, module.normalized_shape, eps=module.eps)


def _rms_norm(module: nn.Module, a: Tensor) -> Tensor:
    return F.rms_norm(a, module.normalized_shape, eps=module.eps)


def _group_norm(module: nn.Module, a: Tensor) -> Tensor:
    return F.group_norm(a, module.num_groups, eps=module.eps)


NORM_RULES: dict[type[nn.Module], NormRule] = {
    nn.LayerNorm: NormRule(_layer_norm, last_dimensions=True),
    nn.RMSNorm: NormRule(_rms_norm, last_dimensions=True),
    nn.GroupNorm: NormRule(_group_norm, last_dimensions=False),
    nn.BatchNorm1d: NormRule(_batch_norm, last_dimensions=False),
    nn.BatchNorm2d: NormRule(_batch_norm, last_dimensions=False),
    nn.BatchNorm3d: NormRule(_batch_norm, last_dimensions=False),
}
