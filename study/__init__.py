"""The reproduction study: published protocols, run over seeds with the methods of ``clreg_plugins``."""

import warnings

# Avalanche imports qpsolvers for GEM, which no run here uses; without a solver every process would say so.
warnings.filterwarnings("ignore", message="no QP solver found")
