"""Whether passes that are about to be timed compute the same numbers."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from study.bench.passes import Moments, Pass
from study.bench.record import Agreement

ALLOWED = 1e-4
"""Of the largest entry; computed in double precision, but for what keeps its sums in float32."""

ALLOWED_SUM = 0.5
"""Of the sum of all entries, for estimates that draw at random from a few dozen samples."""

ESTIMATE_OF = {"sample Fisher": "exact Fisher", "exact Fisher, estimated": "exact Fisher"}
"""What the random ones are estimates of."""


@contextmanager
def double_precision() -> Iterator[None]:
    """What is made within is in double precision; BackPACK makes layers of its own for some of the model's."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def agreement(
    done: Pass, result: Moments, references: Mapping[str, tuple[str, Moments]], model: str, setting: str
) -> Agreement | None:
    """Compare a pass's result with the reference of what it computes; None where there is none.

    Args:
        done: the pass.
        result: its importance.
        references: by what is computed, the reference's name and its importance.
        model, setting: for the record.
    """
    computes = ESTIMATE_OF.get(done.computes, done.computes)
    if computes not in references:
        return None
    name, expected = references[computes]
    if result.keys() != expected.keys():
        difference = float("inf")
    elif done.random:
        difference = _difference_of_sums(result, expected)
    else:
        difference = max_relative_difference(result, expected)
    return Agreement(
        model=model,
        setting=setting,
        mode=done.name,
        reference=name,
        compared="sum" if done.random else "entries",
        difference=difference,
        allowed=ALLOWED_SUM if done.random else ALLOWED,
    )


def max_relative_difference(result: Moments, expected: Moments) -> float:
    """The largest difference of two entries over the largest entry that is expected, parameter by parameter.

    Example:
        >>> expected = {"w": torch.tensor([1.0, 4.0]), "b": torch.tensor([0.5])}
        >>> round(max_relative_difference({"w": torch.tensor([1.0, 4.0]), "b": torch.tensor([0.6])}, expected), 3)
        0.2
    """
    relative = [0.0]
    for name, reference in expected.items():
        difference = float((result[name].to(reference) - reference).abs().max())
        largest = float(reference.abs().max())
        relative.append(difference / largest if largest else math.inf if difference else 0.0)
    return float(np.max(relative))  # NaN, if there is one


def _difference_of_sums(result: Moments, expected: Moments) -> float:
    a, b = (float(sum(value.double().sum() for value in moments.values())) for moments in (result, expected))
    return abs(a - b) / b if b else float("inf")
