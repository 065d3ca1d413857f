"""Which rule serves which type of layer."""

from torch import nn

from clreg_plugins.checks import instance, shown
from clreg_plugins.importance.engine.layer_rules.convolution import ConvRule
from clreg_plugins.importance.engine.layer_rules.embedding import EmbeddingRule
from clreg_plugins.importance.engine.layer_rules.linear import LinearRule
from clreg_plugins.importance.engine.layer_rules.normalisation import NORM_RULES
from clreg_plugins.importance.engine.layer_rules.rule import LayerRule

_RULES: dict[type[nn.Module], LayerRule] = {
    nn.Linear: LinearRule(),
    nn.Conv1d: ConvRule(),
    nn.Conv2d: ConvRule(),
    nn.Conv3d: ConvRule(),
    nn.Embedding: EmbeddingRule(),
    **NORM_RULES,
}


def register_layer_rule(kind: type[nn.Module], rule: LayerRule) -> None:
    """Give a type of layer a rule, for every importance from now on; it replaces an existing one.

    The rule is checked like the package's own: on the first samples of every pass its numbers are compared with
    autograd's, and where they differ the general path computes the importance, with a warning that names the
    parameters. It serves a subclass of ``kind``, too, unless that has a forward of its own.

    Args:
        kind: a subclass of ``torch.nn.Module`` whose forward takes one tensor, samples first, and returns one.
        rule: an instance of a subclass of :class:`LayerRule`.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: the rule names no parameter.

    Example:
        >>> class Scale(nn.Module):
        ...     def __init__(self, features):
        ...         super().__init__()
        ...         self.scale = nn.Parameter(torch.ones(features))
        ...
        ...     def forward(self, x):
        ...         return x * self.scale
        >>> class ScaleRule(LayerRule):
        ...     parameters = ("scale",)
        ...
        ...     def gradients(self, module, prepared, g):
        ...         return {"scale": g * prepared.unsqueeze(1)}
        >>> register_layer_rule(Scale, ScaleRule())
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise TypeError(f"kind is {shown(kind)}; allowed: a subclass of torch.nn.Module")
    instance("rule", rule, LayerRule, "an instance of a subclass of LayerRule")
    names = rule.parameters
    if not isinstance(names, (tuple, list)) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{type(rule).__name__}.parameters is {shown(names)}; allowed: a tuple of names")
    _RULES[kind] = rule


def rule_for(module: nn.Module) -> LayerRule | None:
    """The rule of a module's type, or of the type whose forward a subclass inherits unchanged; None without."""
    for kind in type(module).__mro__:
        rule = _RULES.get(kind)
        if rule is not None:
            unchanged = type(module).forward is kind.forward and "forward" not in vars(module)
            return rule if unchanged and rule.applies(module) else None
    return None
