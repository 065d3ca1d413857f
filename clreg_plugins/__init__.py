"""Regularization-based continual learning for Avalanche."""

from clreg_plugins.diagnostics import Agreement, QuadraticPicture, agreement, quadratic_picture
from clreg_plugins.ewc import EWCPlugin, OnlineEWCPlugin
from clreg_plugins.from_avalanche import from_avalanche
from clreg_plugins.importance import (
    Factors,
    Importance,
    KroneckerFactors,
    LayerRule,
    PassOptions,
    ReadingOptions,
    fisher_diagonal,
    kronecker_factors,
    mas_importance,
    register_layer_rule,
)
from clreg_plugins.kfac import KFACPlugin
from clreg_plugins.kronecker import KroneckerPenalty
from clreg_plugins.l2 import L2Plugin
from clreg_plugins.mas import MASPlugin
from clreg_plugins.penalty import QuadraticPenalty
from clreg_plugins.plugin import RegularizationPlugin
from clreg_plugins.si import SIPlugin

__version__ = "0.2.0"

__all__ = [
    "Agreement",
    "EWCPlugin",
    "Factors",
    "Importance",
    "KFACPlugin",
    "KroneckerFactors",
    "KroneckerPenalty",
    "L2Plugin",
    "LayerRule",
    "MASPlugin",
    "OnlineEWCPlugin",
    "PassOptions",
    "QuadraticPenalty",
    "QuadraticPicture",
    "ReadingOptions",
    "RegularizationPlugin",
    "SIPlugin",
    "__version__",
    "agreement",
    "fisher_diagonal",
    "from_avalanche",
    "kronecker_factors",
    "mas_importance",
    "quadratic_picture",
    "register_layer_rule",
]
