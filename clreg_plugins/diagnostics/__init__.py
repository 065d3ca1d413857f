"""Whether two importances agree, and how good an importance's quadratic approximation of the loss is."""

from clreg_plugins.diagnostics.agreement import Agreement, agreement
from clreg_plugins.diagnostics.quadratic_picture import QuadraticPicture, quadratic_picture

__all__ = ["Agreement", "QuadraticPicture", "agreement", "quadratic_picture"]
