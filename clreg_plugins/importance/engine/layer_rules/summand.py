"""The rule of parameters that are added to what flows through a model."""

from torch import Tensor, nn

from clreg_plugins.importance.engine.layer_rules.rule import LayerRule, Moments


def shape_within(dimensions: int, parameter: Tensor) -> tuple[int, ...]:
    """The parameter's shape with leading ones, as broadcast to a tensor of this many dimensions."""
    return (1,) * (dimensions - parameter.ndim) + tuple(parameter.shape)


class SummandRule(LayerRule):
    """A parameter that is added or expanded, the same for all samples: G = Σ g over where it is the same."""

    def dimensions(self, module: nn.Module) -> int:
        """Samples."""
        return 1

    def gradients(self, module: nn.Module, prepared: Tensor, g: Tensor) -> Moments:
        """g, summed over the dimensions in which the parameter was expanded."""
        shape = shape_within(g.ndim - 1, module.weight)
        expanded = [i + 1 for i, size in enumerate(shape) if i > 0 and size == 1]
        total = g.sum(dim=expanded, keepdim=True) if expanded else g
        return {"weight": total.reshape(*g.shape[:2], *module.weight.shape)}

    def bytes_per_sample(self, module: nn.Module, a: Tensor, g: Tensor) -> int:
        """Output gradients, as they are and summed."""
        return 2 * g.element_size() * g.shape[1:].numel()
