"""What a forward pass leaves behind: the input of each layer that has a rule, and its output's place in the graph.

Two kinds of layers are no modules of their own, and get a :class:`Holder` each: the projections of attention, which is
one function, and parameters ``(1, …)`` of a user's own module, such as a class token or positions, which are broadcast
over the samples. Whether what was recorded is what a rule is about, :mod:`.verification` finds out.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from clreg_plugins.importance.layers import BroadcastRule, LayerRule, LinearRule, rule_for


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


class Call(NamedTuple):
    """One call of a layer.

    ``edge`` is where the layer's own output stands in the graph. It is taken before anything can write into that
    output: an in-place activation or mask that follows moves the tensor to another place, but not the edge.
    ``arrange`` brings the samples of the output's gradient first, as they are in ``inputs``.
    """

    inputs: Tensor
    edge: GradientEdge
    output_numel: int
    arrange: Callable[[Tensor], Tensor] = _as_it_is


class Holder(nn.Module):
    """Parameters of a layer that is no module, under the names that rules know."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias


class Recorder:
    """Records the calls of every layer of ``model`` that has a rule and a trainable parameter."""

    def __init__(self, model: nn.Module) -> None:
        self.rules: dict[nn.Module, LayerRule] = {}
        self.projections: dict[int, Holder] = {}  # by id of the weight
        self.broadcast: dict[str, Holder] = {}  # by name in the model
        for module in model.modules():
            rule = rule_for(module)
            if rule is not None and any(p.requires_grad for p in module.parameters(recurse=False)):
                self.rules[module] = rule
            if isinstance(module, nn.MultiheadAttention):
                pairs = (module.in_proj_weight, module.in_proj_bias), (module.out_proj.weight, module.out_proj.bias)
                for weight, bias in pairs:
                    if weight is not None and (weight.requires_grad or (bias is not None and bias.requires_grad)):
                        self.projections[id(weight)] = holder = Holder(weight, bias)
                        self.rules[holder] = LinearRule()
        for prefix, module in model.named_modules():
            if type(module).__module__.startswith("torch.nn."):
                continue  # a layer that has no rule: its parameters are no summands or factors
            for name, p in module.named_parameters(prefix, recurse=False):
                if p.requires_grad and p.ndim > 1 and len(p) == 1 and module not in self.rules:
                    self.broadcast[name] = holder = Holder(p)
                    self.rules[holder] = BroadcastRule()
        self.calls: dict[nn.Module, list[Call | None]] = {}

    @contextlib.contextmanager
    def recording(self, samples: int) -> Iterator[None]:
        """Record inside this context. A layer's hooks come first, so that other hooks see what they always do."""
        self.calls = {}
        handles = [module.register_forward_hook(self._record, prepend=True) for module in self.rules]
        linear = F.linear
        if self.projections:  # attention is one function, without modules or hooks within; it looks linear up here
            F.linear = partial(self._linear, linear, samples)
        try:
            yield
        finally:
            F.linear = linear
            for handle in handles:
                handle.remove()

    def copies(self, samples: int) -> dict[str, Tensor]:
        """Of each parameter that is broadcast, by its name in the model, one for each sample; recorded as such."""
        found = {}
        for name, holder in self.broadcast.items():
            found[name] = copy = holder.weight.expand(samples, *holder.weight.shape[1:])
            self.calls[holder] = [Call(copy.detach(), get_gradient_edge(copy), copy.numel())]
        return found

    def _linear(
        self, linear: Callable[..., Tensor], samples: int, inputs: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        output = linear(inputs, weight, bias)
        holder = self.projections.get(id(weight))
        if holder is not None:
            tokens_and_samples = inputs.shape[:-1].numel()
            call = None
            if output.requires_grad and samples and tokens_and_samples % samples == 0:
                arrange = partial(_samples_first, samples)
                call = Call(arrange(inputs.detach()), get_gradient_edge(output), output.numel(), arrange)
            self.calls.setdefault(holder, []).append(call)
        return output

    def _record(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        usable = len(args) == 1 and isinstance(args[0], Tensor) and output.requires_grad
        call = Call(args[0].detach(), get_gradient_edge(output), output.numel()) if usable else None
        self.calls.setdefault(module, []).append(call)


def _samples_first(samples: int, tensor: Tensor) -> Tensor:
    """``(tokens, samples, features)``, perhaps with the first two as one, as attention has it, the other way round."""
    return tensor.reshape(-1, samples, tensor.shape[-1]).transpose(0, 1)


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
