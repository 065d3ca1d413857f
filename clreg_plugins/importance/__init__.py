"""The importance of each parameter, measured on data or along the path of training."""

from clreg_plugins.importance.fisher import fisher_diagonal
from clreg_plugins.importance.jacobian import Importance, jacobian_moments
from clreg_plugins.importance.output_norm import mas_importance

__all__ = ["Importance", "fisher_diagonal", "jacobian_moments", "mas_importance"]
