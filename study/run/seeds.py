"""How the seed of a run becomes random numbers: each purpose has its own."""

import hashlib
import random
from collections.abc import Mapping
from typing import Any

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


def generator_states() -> dict[str, Any]:
    """The states of these generators, and of the GPU's if it is in use: numbers, strings and tensors."""
    name, keys, *rest = np.random.get_state()
    states = {"cpu": torch.get_rng_state(), "python": random.getstate(), "numpy": (name, keys.tolist(), *rest)}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})


def restore_generators(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
