"""A model's outputs at other parameters than its own."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from clreg_plugins.checks import listed
from clreg_plugins.importance.engine.batch import Batch, map_tensors
from clreg_plugins.importance.engine.environment import random_states
from clreg_plugins.importance.engine.model import Forward
from clreg_plugins.importance.engine.modes import choose_mode
from clreg_plugins.importance.engine.recording import Graph
from clreg_plugins.importance.engine.snapshot import Snapshot

COPY_ALL = 2**62
"""A memory bound that no model reaches: every parameter that is moved is copied."""


class Outputs:
    """z at given parameters, each time from the state that the model has at first, and with the same draws.

    The mode is the one in which a pass measures the model: with the first batch it is chosen.

    Args:
        model: without wrappers.
        parameters: those that are moved.
        forward: how to call it.
        base: its state, by which the caller puts everything back.
    """

    def __init__(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], forward: Forward, base: Snapshot
    ) -> None:
        self.model, self.parameters, self.forward = model, parameters, forward
        self._base = base
        self._start: Snapshot | None = None

    def __call__(self, batch: Batch, to: Mapping[str, Tensor]) -> Tensor:
        """z of a batch, with the parameters at ``to``.

        Raises:
            ValueError: z is no tensor, or the forward pass changes a parameter.
        """
        if self._start is None:
            choose_mode(self.model, lambda: self._reached(batch))
        self._start.restore()
        _move(self.parameters, to)
        z = self._run(batch)
        if changed := [name for name, p in self.parameters.items() if not torch.equal(p.detach(), to[name].to(p))]:
            raise ValueError(
                f"the model's forward pass changes {listed(changed)}, as an embedding with max_norm does, which "
                "PyTorch's derivatives leave out; allowed: a model that leaves its parameters as they are"
            )
        return z

    def _reached(self, batch: Batch) -> set[str]:
        self._start = Snapshot(self.model, COPY_ALL, self._base)
        uses = Graph(self._run(batch)).uses
        self._start.restore()  # or the other mode would begin with what this one left
        return {name for name, p in self.parameters.items() if uses[id(p)]}

    def _run(self, batch: Batch) -> Tensor:
        inputs, labels = map_tensors(torch.clone, (batch.inputs, batch.task_labels))  # it may write into its inputs
        with random_states():
            z = self.forward(self.model, inputs, labels)
        if not isinstance(z, Tensor):
            raise ValueError(
                f"the model's output is a {type(z).__name__}; allowed: a tensor with the samples along its first "
                "dimension; of other outputs, forward= can return it"
            )
        return z


@torch.no_grad()
def _move(parameters: Mapping[str, nn.Parameter], to: Mapping[str, Tensor]) -> None:
    for name, p in parameters.items():
        p.copy_(to[name])
