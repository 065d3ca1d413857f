"""How the seed of a run becomes random numbers: each purpose has its own."""

import hashlib
import random

import numpy as np
import torch


def derived_seed(seed: int, purpose: str) -> int:
    """A seed for one purpose, in [0, 2³²), independent of those of other purposes."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:4], "big")


def seed_globally(seed: int) -> None:
    """Seed the generators that code may draw from without naming one: torch's, Python's and NumPy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
