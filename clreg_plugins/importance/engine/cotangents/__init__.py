"""The vectors that are pulled back through the model: :mod:`.table` has the variants, a file each the likelihoods."""

from clreg_plugins.importance.engine.cotangents.categorical import Positions
from clreg_plugins.importance.engine.cotangents.table import (
    LIKELIHOODS,
    OUTPUTS,
    VARIANTS,
    Cotangents,
    fisher_cotangents,
    output_cotangents,
)

__all__ = [
    "LIKELIHOODS",
    "OUTPUTS",
    "VARIANTS",
    "Cotangents",
    "Positions",
    "fisher_cotangents",
    "output_cotangents",
]
