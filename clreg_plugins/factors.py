"""What a pass returns: an importance by parameter name, or Kronecker factors by layer."""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor

from clreg_plugins.checks import instance, mapping


class Importance(dict[str, Tensor]):
    """Importance by parameter name, a plain dict, with a note of how each was computed.

    That of a frozen parameter is a view of a single 0: it takes no memory, and cannot be written to.

    Attributes:
        paths: by parameter name: "rule" (a layer's contraction), "vectorised" or "one_at_a_time" (the general
            path, by vmap or by a loop), "batch" (gradients of batch means), "unused". Where batches differ, the
            slowest path taken.
        mode: "eval", or "training" where eval mode cuts off parameters that training mode uses, or fails: modules that
            are not PyTorch's own were then measured in training mode.
        reason: why samples were taken one at a time, in one line; None where they were not.
    """

    def __init__(
        self, values: dict[str, Tensor], paths: dict[str, str], mode: str = "eval", reason: str | None = None
    ) -> None:
        super().__init__(values)
        self.paths = paths
        self.mode = mode
        self.reason = reason

    def __reduce__(self) -> tuple:
        # a plain dict of a kind that torch.load takes with weights_only=True
        return OrderedDict, (), None, None, iter(self.items())


class Factors(NamedTuple):
    """The Kronecker factors of one layer, whose curvature is A ⊗ G.

    Attributes:
        weight: name of its weight in the model; None if that is frozen.
        bias: name of its bias; None if it has none, or a frozen one.
        inputs: A, shape (groups, inputs, inputs), where the first input is the constant 1 of the bias if there is one.
            Of an embedding, whose A is diagonal, that diagonal: shape (tokens,).
        outputs: G, shape (groups, outputs, outputs). Groups are those of a convolution, else 1.
    """

    weight: str | None
    bias: str | None
    inputs: Tensor
    outputs: Tensor

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that the factors are about."""
        return tuple(name for name in (self.bias, self.weight) if name is not None)


class KroneckerFactors(dict[str, Factors]):
    """Kronecker factors by layer, a plain dict, and the diagonal of what has none.

    Attributes:
        diagonal: of the parameters without factors; of those that a layer's rule did not serve on all samples, what the
            others add.
        paths: by parameter name: "factors", or how the diagonal was computed, as in :class:`Importance`.
        mode: as in :class:`Importance`.
        reason: as in :class:`Importance`.
    """

    def __init__(self, layers: dict[str, Factors], importance: Importance) -> None:
        super().__init__(mapping("layers", layers))
        for name, layer in self.items():
            instance(f"layers[{name!r}]", layer, Factors, "Factors")
        instance("importance", importance, Importance, "an Importance")
        factored = {name for layer in layers.values() for name in layer.parameters}
        rest = {name: value for name, value in importance.items() if name not in factored or value.any()}
        paths = importance.paths | {name: "factors" for name in factored if name not in rest}
        self.diagonal = Importance(rest, importance.paths, importance.mode, importance.reason)
        self.paths, self.mode, self.reason = paths, importance.mode, importance.reason


Shapes = tuple[tuple[int, ...], tuple[int, ...]]


def factor_shapes(shape: torch.Size, groups: int, weight: bool, bias: bool) -> Shapes:
    """The shapes of A and G of a layer whose weight and bias are measured, or only one of the two.

    Args:
        shape: of the weight; of the bias suffices where the weight is not measured.
        groups: of a convolution, else 1.
        weight: whether it is measured.
        bias: likewise.
    """
    inputs, outputs = (shape[1:].numel() if weight else 0) + bias, shape[0] // groups
    return (groups, inputs, inputs), (groups, outputs, outputs)


def embedding_shapes(shape: torch.Size) -> Shapes:
    """The shapes of A's diagonal and of G for an embedding's weight."""
    return (shape[0],), (1, shape[1], shape[1])
