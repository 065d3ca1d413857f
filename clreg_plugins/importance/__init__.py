"""The importance of each parameter, measured on data or along the path of training."""

from clreg_plugins.factors import Factors, Importance, KroneckerFactors
from clreg_plugins.importance.engine.layer_rules import LayerRule, register_layer_rule
from clreg_plugins.importance.fisher import fisher_diagonal
from clreg_plugins.importance.kronecker_factors import kronecker_factors
from clreg_plugins.importance.mas import mas_importance
from clreg_plugins.importance.options import PassOptions, ReadingOptions

__all__ = [
    "Factors",
    "Importance",
    "KroneckerFactors",
    "LayerRule",
    "PassOptions",
    "ReadingOptions",
    "fisher_diagonal",
    "kronecker_factors",
    "mas_importance",
    "register_layer_rule",
]
