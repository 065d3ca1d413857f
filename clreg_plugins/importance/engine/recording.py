"""What a forward pass leaves behind: the input of each layer that has a rule, and its output's place in the graph.

Two kinds of layers are no modules of their own, and get a :class:`Holder` each: the projections of attention, which is
one function, and parameters that are added to something or expanded, such as positions or a class token. Whether what
was recorded is what a rule is about, :mod:`.verification` finds out.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from clreg_plugins.importance.engine.layer_rules import LayerRule, LinearRule, SummandRule, rule_for, shape_within

_SUM = re.compile(r"(Add|Sub|Expand|Repeat)Backward\d+")
"""PyTorch's nodes whose output's gradient is, up to its sign, that of a parameter among their inputs."""


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
        self.projections: dict[int, tuple[nn.MultiheadAttention, Holder]] = {}  # by id of the weight
        self.summands: dict[int, Holder] = {}  # by id of the parameter
        self._attended: dict[nn.Module, int] = {}  # how many samples a call of attention is about
        self._samples = 0
        for module in model.modules():
            rule = rule_for(module)
            if rule is not None and any(p.requires_grad for p in module.parameters(recurse=False)):
                self.rules[module] = rule
            if isinstance(module, nn.MultiheadAttention) and type(module).forward is nn.MultiheadAttention.forward:
                self._hold_projections(module)
        ruled = {id(p) for module in self.rules for p in module.parameters(recurse=False)}
        for p in model.parameters():
            if p.requires_grad and id(p) not in ruled:
                self.summands[id(p)] = holder = Holder(p)
                self.rules[holder] = SummandRule()
        self.calls: dict[nn.Module, list[Call | None]] = {}

    def _hold_projections(self, module: nn.MultiheadAttention) -> None:
        # as they stand: a parametrisation would compute them again, and may change with every look
        of_output = getattr(module._modules.get("out_proj"), "_parameters", {})
        pairs = (
            (module._parameters.get("in_proj_weight"), module._parameters.get("in_proj_bias")),
            (of_output.get("weight"), of_output.get("bias")),
        )
        for weight, bias in pairs:
            if weight is not None and (weight.requires_grad or (bias is not None and bias.requires_grad)):
                holder = Holder(weight, bias)
                self.projections[id(weight)] = module, holder
                self.rules[holder] = LinearRule()

    @contextlib.contextmanager
    def recording(self, samples: int) -> Iterator[None]:
        """Record inside this context a forward pass on this many samples.

        A layer's hooks come first, so that other hooks see what they always do. A model with attention must not be
        recorded by two threads at once: PyTorch's ``linear`` is watched meanwhile.
        """
        self.calls, self._samples, self._attended = {}, samples, {}
        handles = [module.register_forward_hook(self._record, prepend=True, with_kwargs=True) for module in self.rules]
        linear = F.linear
        if self.projections:  # attention is one function, without modules or hooks within; it looks linear up here
            for module in {module for module, _ in self.projections.values()}:
                handles.append(module.register_forward_pre_hook(self._attend, with_kwargs=True))
                handles.append(module.register_forward_hook(self._leave, always_call=True))
            F.linear = partial(self._linear, linear)
        try:
            yield
        finally:
            F.linear = linear
            for handle in handles:
                handle.remove()

    def _attend(self, module: nn.MultiheadAttention, args: tuple, kwargs: dict) -> None:
        query = args[0] if args else kwargs.get("query")
        whole = isinstance(query, Tensor) and query.ndim == 3
        self._attended[module] = query.shape[0 if module.batch_first else 1] if whole else 0

    def _leave(self, module: nn.MultiheadAttention, args: tuple, output: object) -> None:
        self._attended.pop(module, None)

    def _linear(
        self, linear: Callable[..., Tensor], input: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        output = linear(input, weight, bias)
        module, holder = self.projections.get(id(weight), (None, None))
        if holder is not None:
            # attention over some of the samples, or over parts of them, is not one row a sample
            usable = output.requires_grad and self._attended.get(module) == self._samples
            arrange = partial(_samples_first, self._samples)
            call = Call(arrange(input.detach()), get_gradient_edge(output), output.numel(), arrange) if usable else None
            self.calls.setdefault(holder, []).append(call)
        return output

    def record_summands(self, graph: "Graph") -> None:
        """Find in the graph behind the outputs the sums and expansions that parameters without a layer go into."""
        for key, holder in self.summands.items():
            node = graph.users.get(key)
            if node is None or not _SUM.fullmatch(node.name()) or getattr(node, "_saved_alpha", 1) not in (1, -1):
                continue
            of_sum = node._input_metadata[0]
            if of_sum.dtype.is_complex or of_sum.is_cpp_nested_tensor:
                continue
            shape = tuple(of_sum.shape)
            shape_of_parameter = shape_within(len(shape), holder.weight)
            same_for_all = bool(shape) and shape_of_parameter[0] == 1
            if same_for_all and all(b in (1, a) for a, b in zip(shape[1:], shape_of_parameter[1:], strict=True)):
                rows = graph.outputs.new_empty(shape[0], 0)
                self.calls[holder] = [Call(rows, GradientEdge(node, 0), torch.Size(shape).numel())]

    def _record(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        plain = len(args) == 1 and not kwargs and all(isinstance(each, Tensor) for each in (*args, output))
        usable = plain and output.requires_grad
        call = Call(args[0].detach(), get_gradient_edge(output), output.numel()) if usable else None
        self.calls.setdefault(module, []).append(call)


def _samples_first(samples: int, tensor: Tensor) -> Tensor:
    """``(tokens, samples, features)``, perhaps with the first two as one, as attention has it, the other way round."""
    return tensor.reshape(-1, samples, tensor.shape[-1]).transpose(0, 1)


class Graph:
    """The graph behind outputs.

    Attributes:
        outputs: what the graph computes.
        uses: how often each leaf is used, by ``id`` of the leaf. A weight that appears twice (tied, or of a module that
            is called twice) has no single place where the gradient of one sample could be read off.
        users: the node that uses each leaf last, by ``id`` of the leaf.
        dtypes: the floating-point types of what its nodes computed.

    Raises:
        ValueError: the graph holds a reentrant checkpoint, which hides the parameters within.
    """

    def __init__(self, outputs: Tensor) -> None:
        self.outputs = outputs
        self.uses: Counter[int] = Counter()
        self.users: dict[int, Node] = {}
        self.dtypes: set[torch.dtype] = {outputs.dtype}
        if outputs.grad_fn is None:
            return
        seen, stack = {outputs.grad_fn}, [outputs.grad_fn]
        while stack:
            user = stack.pop()
            for node, _ in user.next_functions:
                if node is None:
                    continue
                if node.name() == "CheckpointFunctionBackward":
                    raise ValueError(
                        "the model uses torch.utils.checkpoint with use_reentrant=True, which hides its parameters "
                        "from an importance; allowed: use_reentrant=False"
                    )
                variable = getattr(node, "variable", None)
                if variable is not None:
                    self.uses[id(variable)] += 1
                    self.users[id(variable)] = user
                elif node not in seen:
                    seen.add(node)
                    stack.append(node)
                    self.dtypes.update(m.dtype for m in node._input_metadata if m.dtype.is_floating_point)

    @property
    def epsilon(self) -> float:
        """The coarsest relative rounding of anything in the graph."""
        return max(torch.finfo(dtype).eps for dtype in self.dtypes if dtype.is_floating_point)
