"""How each type of layer turns recorded inputs and output gradients into moments of per-sample gradients.

A rule receives the layer's input ``a`` (samples first) and the gradients ``(samples, *output)`` at the layer's output
under each of K cotangents, and returns, for each parameter θ of the layer,

    Σ_n ( Σ_k G_nk² )^(p/2),      G_nk = the gradient of sample n under cotangent k.

No weight gradient of autograd's is involved, so the samples of a batch never mix. :mod:`.rule` says what a rule is, a
file each has those of PyTorch's layers, and :mod:`.registry` which rule serves which layer.
"""

from clreg_plugins.importance.engine.layer_rules.convolution import ConvRule
from clreg_plugins.importance.engine.layer_rules.embedding import EmbeddingRule
from clreg_plugins.importance.engine.layer_rules.linear import LinearRule
from clreg_plugins.importance.engine.layer_rules.normalisation import NormRule
from clreg_plugins.importance.engine.layer_rules.registry import register_layer_rule, rule_for
from clreg_plugins.importance.engine.layer_rules.rule import LayerRule, Moments
from clreg_plugins.importance.engine.layer_rules.summand import SummandRule, shape_within

__all__ = [
    "ConvRule",
    "EmbeddingRule",
    "LayerRule",
    "LinearRule",
    "Moments",
    "NormRule",
    "SummandRule",
    "register_layer_rule",
    "rule_for",
    "shape_within",
]
