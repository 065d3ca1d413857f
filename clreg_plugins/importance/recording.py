"""What a forward pass leaves behind: the input of each layer that has a rule, and its output's place in the graph."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from clreg_plugins.importance.layers import LayerRule, rule_for


class Call(NamedTuple):
    """One call of a layer.

    ``edge`` is where the layer's own output stands in the graph. It is taken before anything can write into that
    output: an in-place activation or mask that follows moves the tensor to another place, but not the edge.
    """

    inputs: Tensor
    edge: GradientEdge
    output_numel: int


class Recorder:
    """Records the calls of every layer of ``model`` that has a rule and a trainable parameter."""

    def __init__(self, model: nn.Module) -> None:
        self.rules: dict[nn.Module, LayerRule] = {}
        for module in model.modules():
            rule = rule_for(module)
            if rule is not None and any(p.requires_grad for p in module.parameters(recurse=False)):
                self.rules[module] = rule
        self.calls: dict[nn.Module, list[Call | None]] = {}

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record inside this context. A layer's hooks come first, so that other hooks see what they always do."""
        self.calls = {}
        handles = [module.register_forward_hook(self._record, prepend=True) for module in self.rules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _record(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        usable = len(args) == 1 and isinstance(args[0], Tensor) and output.requires_grad
        call = Call(args[0].detach(), get_gradient_edge(output), output.numel()) if usable else None
        self.calls.setdefault(module, []).append(call)


def parameter_uses(outputs: Tensor) -> Counter[int]:
    """How often each leaf is used in the graph behind ``outputs``, by ``id`` of the leaf.

    A weight that appears twice (tied, or of a module that is called twice) has no single place where the gradient
    of one sample could be read off.

    Raises:
        ValueError: the graph holds a reentrant checkpoint, which hides the parameters within.
    """
    uses: Counter[int] = Counter()
    if outputs.grad_fn is None:
        return uses
    seen, stack = {outputs.grad_fn}, [outputs.grad_fn]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is None:
                continue
            if node.name() == "CheckpointFunctionBackward":
                raise ValueError(
                    "the model uses torch.utils.checkpoint with use_reentrant=True, which hides its parameters from "
                    "an importance; allowed: use_reentrant=False"
                )
            variable = getattr(node, "variable", None)
            if variable is not None:
                uses[id(variable)] += 1
            elif node not in seen:
                seen.add(node)
                stack.append(node)
    return uses


def saved_bytes_per_sample(forward, batch) -> int:
    """What autograd keeps for one more sample of ``batch``, measured on its first two samples."""
    if len(batch.inputs) < 2:
        return 0

    def measure(n: int) -> int:
        """Bytes that autograd keeps for so many samples."""
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            """Count a storage once, however many tensors share it."""
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = forward(batch.rows(0, n))
            total = sum(storages.values())
        del outputs
        return total

    return max(0, measure(2) - measure(1))
