"""Moments of vector–Jacobian products: the one formula behind every importance that is measured on data.

    importance_i = 1/N Σ_n ( Σ_k (v_nkᵀ J_n)_i² )^(p/2)

Where a layer type has a rule (:mod:`.layers`), the gradients at the layers' outputs suffice and no per-sample weight
gradient of autograd's is formed; every other parameter takes the general path (:mod:`.general`). The choice is made
for each parameter and each batch, from what the forward pass really did.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Generator, Tensor, nn

from clreg_plugins.importance.cotangents import Cotangents
from clreg_plugins.importance.general import gradients_of, one_at_a_time, vectorised
from clreg_plugins.importance.layers import LayerRule, LinearRule
from clreg_plugins.importance.model import Forward, evaluation_mode, named_parameters, unwrap
from clreg_plugins.importance.recording import Call, Recorder, saved_bytes_per_sample
from clreg_plugins.importance.samples import Batch
from clreg_plugins.importance.verification import Verdict, output_gradients, verify

PATHS = ("auto", "vectorised", "one_at_a_time")


class Importance(dict[str, Tensor]):
    """Importance by parameter name, a plain dict, with a note of how each was computed.

    Attributes:
        paths: by parameter name: "rule" (a layer's contraction), "vectorised" or "one_at_a_time" (the general
            path, by vmap or by a loop), "batch" (gradients of batch means), "unused". Where batches differ, the
            slowest path taken.
    """

    def __init__(self, values: dict[str, Tensor], paths: dict[str, str]) -> None:
        super().__init__(values)
        self.paths = paths


CHECKED_SAMPLES = 8
"""Size of the pieces in which the rules of layers are first checked."""

GROUP = 16
"""Cotangents whose output gradients are held together where their order of summation is free."""

OUTPUT_BYTES = 2**22
"""What one layer's output takes at most in a piece on a CPU, beyond which caches make larger pieces slower ones."""

KERNEL_BYTES = 2**24
"""What kernels keep for themselves on a CPU, code and scratch, however small a piece is; set aside from the bound."""

_SLOWNESS = {"unused": 0, "batch": 1, "rule": 2, "vectorised": 3, "one_at_a_time": 4}


@dataclass
class _Pass:
    """One pass over the data: totals so far, and what is known of the model's layers."""

    model: nn.Module
    forward: Forward
    cotangents: Cotangents
    power: int
    max_bytes: int
    path: str
    generator: Generator
    batch_mean_only: bool
    totals: dict[str, Tensor] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    terms: float = 0
    trusted: set[tuple[nn.Module, bool]] = field(default_factory=set)  # and whether among several samples
    distrusted: set[nn.Module] = field(default_factory=set)
    partial: set[nn.Module] = field(default_factory=set)  # met with rows that are not all samples: never trusted
    vectorisable: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        for name, module in self.model.named_modules():
            mixes = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None
            if mixes and not self.batch_mean_only:
                raise ValueError(
                    f"{name!r} is a {type(module).__name__} without running statistics, which mixes the samples of a "
                    'batch, so that no sample has a gradient of its own; allowed with it: variant "batched", '
                    "per_sample=False"
                )
        # a layer's own names, so that functional_call finds them; totals carry the names without wrappers
        self.trainable = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        for name, p in named_parameters(self.model).items():
            dtype = torch.promote_types(p.dtype, torch.float32)
            self.totals[name] = torch.zeros(p.shape, dtype=dtype, device=p.device)
            self.paths[name] = "unused"
        self.recorder = Recorder(self.model)
        full = {id(p): name for name, p in self.trainable.items()}
        self.names = {  # of each layer with a rule: name within the layer -> name within the model
            module: {
                n: full[id(p)]
                for n, p in module.named_parameters(recurse=False)
                if id(p) in full and n in LayerRule.parameters
            }
            for module in self.recorder.rules
        }

    # ------------------------------------------------------------------ forward

    def outputs(self, batch: Batch) -> Tensor:
        """z, which must have the samples along its first dimension."""
        z = self.forward(self.model, batch.inputs, batch.task_labels)
        if not isinstance(z, Tensor) or z.ndim == 0 or z.shape[0] != batch.inputs.shape[0]:
            got = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else f"a {type(z).__name__}"
            raise ValueError(
                f"the model's output is {got}; an importance needs a tensor with the {batch.inputs.shape[0]} "
                "samples along its first dimension"
            )
        return z

    def pull(self, z: Tensor, batch: Batch) -> list[Tensor]:
        """The cotangents at z, each of its shape."""
        return list(self.cotangents(z.detach(), batch.targets, self.generator))

    def add(self, moments: dict[str, Tensor], path: str) -> None:
        """Add a batch's or piece's moments to the totals, and note how they were computed."""
        for name, value in moments.items():
            name = name.replace("_orig_mod.", "")
            self.totals[name] += value.to(self.totals[name])
            if _SLOWNESS[path] > _SLOWNESS[self.paths[name]]:
                self.paths[name] = path

    # ------------------------------------------------------------------ batches

    def batch_mean(self, batch: Batch) -> None:
        """|∇ of the batch mean|^p: the quantity that Avalanche, FACIL and others call importance."""
        z = self.outputs(batch)
        squares: dict[str, Tensor] = {}
        for v in self.pull(z, batch):
            mean = gradients_of(z, self.trainable, v / len(batch.inputs))
            for name, gradient in mean.items():
                square = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).square()
                squares[name] = squares[name] + square if name in squares else square
        self.add(squares if self.power == 2 else {n: s.sqrt() for n, s in squares.items()}, "batch")
        self.terms += 1

    def per_sample(self, batch: Batch) -> None:
        """The moments of every sample of the batch, in pieces that keep to the memory bound."""
        if self.micro_batch is None and len(batch.inputs) > 1:  # a single sample tells nothing of the next
            self.micro_batch = self._plan(batch)
        step = self.micro_batch or 1
        start = 0
        while start < len(batch.inputs):
            # until layers are trusted a piece is small, since checking them takes several passes over it
            stop = start + (step if self.trusted else min(step, CHECKED_SAMPLES))
            self._piece(batch.rows(start, stop))
            start = stop
        self.terms += len(batch.inputs)

    def _plan(self, batch: Batch) -> int:
        """How many samples half the memory bound holds: activations, and output gradients for every cotangent."""
        first = batch.rows(0, 1)
        with self.recorder.recording(1):
            z = self.outputs(first)
        self.recorder.record_summands(z)
        state = self.generator.get_state()
        k = len(self.pull(torch.zeros_like(z), first))  # equal logits: no class is impossible, as one may be for z
        self.generator.set_state(state)
        if self.power == 2:
            k = min(k, GROUP)
        sizes = [call.output_numel for calls in self.recorder.calls.values() for call in calls if call]
        activations = 2 * saved_bytes_per_sample(self.outputs, batch)
        # a layer's output gradients are held as they come, and in the products made of them
        needed = activations + 2 * k * sum(sizes) * z.element_size()
        bound = self.max_bytes
        if z.device.type != "cpu":
            return max(1, bound // (2 * max(1, needed)))
        bound -= min(bound // 4, KERNEL_BYTES)
        largest = max(sizes, default=1) * z.element_size()
        return max(1, min(bound // (2 * max(1, needed)), OUTPUT_BYTES // largest))

    def _piece(self, batch: Batch) -> None:
        with self.recorder.recording(len(batch.inputs)):
            z = self.outputs(batch)
        vs = self.pull(z, batch)
        if not z.requires_grad or not vs:
            return
        uses = self.recorder.record_summands(z)
        calls = self._usable_calls(uses, len(batch.inputs)) if self.path == "auto" else {}
        calls = self._verified(calls, z)
        by_rule = self._apply_rules(calls, z, vs)
        self.add(by_rule, "rule")

        rest = {n: p for n, p in self.trainable.items() if uses[id(p)] and n not in by_rule}
        if rest:
            del z, calls
            stacked = torch.stack(vs, dim=1)
            self._general(rest, batch, stacked)

    def _general(self, parameters: dict[str, Tensor], batch: Batch, cotangents: Tensor) -> None:
        hooked = any(p._backward_hooks for p in parameters.values())  # torch.func would pass the user's hooks by
        if self.path != "one_at_a_time" and self.vectorisable and not hooked:
            each = sum(p.numel() * p.element_size() for p in parameters.values())
            chunk = max(1, min(len(batch.inputs), self.max_bytes // (8 * max(1, each))))
            moments = vectorised(self.model, self.forward, parameters, batch, cotangents, self.power, chunk)
            if moments is not None:
                self.add(moments, "vectorised")
                return
            if self.path == "vectorised":
                raise ValueError("path is 'vectorised', but vmap cannot run this model; allowed: auto, one_at_a_time")
            self.vectorisable = False
        self.add(one_at_a_time(self.outputs, parameters, batch, cotangents, self.power), "one_at_a_time")

    # -------------------------------------------------------------------- rules

    def _usable_calls(self, uses: dict[int, int], n: int) -> dict[nn.Module, Call]:
        """Layers called exactly once, on something that can be one row a sample, each weight used just there."""
        usable = {}
        for module, calls in self.recorder.calls.items():
            used_once = all(uses[id(p)] <= 1 for p in module.parameters(recurse=False))
            hooked = any(p._backward_hooks for p in module.parameters(recurse=False))
            if len(calls) != 1 or calls[0] is None or not used_once or hooked or not self.names[module]:
                continue
            a = calls[0].inputs
            if a.shape[:1] != (n,):
                self.partial.add(module)
            if a.ndim >= self.recorder.rules[module].dimensions(module) and a.shape[0] <= n:
                usable[module] = calls[0]
        return usable

    def _moments(self, module: nn.Module, a: Tensor, gs: list[Tensor], power: int) -> dict[str, Tensor]:
        dtype = torch.promote_types(gs[0].dtype, torch.float32)
        if not len(a):  # no sample of the batch came by
            return {full: torch.zeros_like(p, dtype=dtype) for full, p in self._own(module).items()}
        if a.is_floating_point():
            a = a.to(dtype)
        rule: LayerRule = self.recorder.rules[module]
        moments = rule.moments(module, a, [g.to(dtype) for g in gs], power, self.max_bytes // 8)
        return {full: moments[name] for name, full in self.names[module].items() if name in moments}

    def _own(self, module: nn.Module) -> dict[str, Tensor]:
        """The parameters that a layer's rule speaks of, by their names in the model."""
        return {full: self.trainable[full] for full in self.names[module].values()}

    def _apply_rules(self, calls: dict[nn.Module, Call], z: Tensor, vs: list[Tensor]) -> dict[str, Tensor]:
        if not calls:
            return {}
        result: dict[str, Tensor] = {}
        # Σ_k is additive for p = 2, so that a few cotangents at a time are enough; p = 1 needs all of a sample's
        size = GROUP if self.power == 2 else len(vs)
        for start in range(0, len(vs), size):
            for name, value in self._apply_to_group(calls, z, vs[start : start + size]).items():
                result[name] = result[name].add_(value) if name in result else value
        return result

    def _apply_to_group(self, calls: dict[nn.Module, Call], z: Tensor, vs: list[Tensor]) -> dict[str, Tensor]:
        gathered: dict[nn.Module, list[Tensor]] = {module: [] for module in calls}
        squares: dict[nn.Module, Tensor] = {}
        for v in vs:
            for module, g in zip(calls, output_gradients(z, calls, v), strict=True):
                if g is None:
                    continue
                if isinstance(self.recorder.rules[module], LinearRule) and g.ndim == 2:
                    g = g.to(torch.promote_types(g.dtype, torch.float32))
                    squares[module] = squares[module].addcmul_(g, g) if module in squares else g.square()
                else:
                    gathered[module].append(g)
        result: dict[str, Tensor] = {}
        for module, call in calls.items():
            if module in squares:
                a = call.inputs.to(squares[module].dtype)
                moments = LinearRule.outer_product_moments(a, squares[module], self.power)
                result.update({full: moments[n] for n, full in self.names[module].items()})
            elif gathered[module]:
                result.update(self._moments(module, call.inputs, gathered.pop(module), self.power))
        return result

    def _verified(self, calls: dict[nn.Module, Call], z: Tensor) -> dict[nn.Module, Call]:
        """Those of ``calls`` whose rule holds, each checked until there is evidence; warns if one is wrong."""
        several = len(z) > 1  # from one sample alone a layout cannot be told
        calls = {module: call for module, call in calls.items() if module not in self.distrusted}
        self.trusted -= {(module, several) for module in self.partial}
        unknown = {module: call for module, call in calls.items() if (module, several) not in self.trusted}
        if not unknown:
            return calls
        parameters = {module: self._own(module) for module in unknown}
        verdicts = verify(z, unknown, parameters, lambda m, a, g: self._moments(m, a, [g], 2))
        wrong = [module for module, verdict in verdicts.items() if verdict is Verdict.WRONG]
        holds = {module for module, verdict in verdicts.items() if verdict is Verdict.HOLDS}
        self.trusted |= {(module, several) for module in holds - self.partial}
        self.distrusted |= {*wrong, *(m for m, verdict in verdicts.items() if verdict is Verdict.OTHER_ROWS)}
        if wrong:
            names = ", ".join(full for module in wrong for full in self.names[module].values())
            warnings.warn(
                f"the fast rule for {names} disagrees with autograd in this model; "
                "the general path computes their importance, slower and right",
                stacklevel=2,
            )
        return {module: call for module, call in calls.items() if module not in self.distrusted}


@cache
def _keep_freed_memory() -> None:
    """Let the C library keep what one batch frees for the next, which to fetch anew took a fifth of a MLP's pass.

    glibc gives memory back beyond twice the largest block it has freed, which it counts up to 32 MiB. One that is
    never written to is enough, and once a process: the next would lie in its heap, and lengthen that.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def jacobian_moments(
    model: nn.Module,
    data: Iterable[Batch],
    cotangents: Cotangents,
    *,
    power: int,
    forward: Forward,
    seed: int,
    batch_mean: bool = False,
    max_bytes: int = 2**30,
    path: str = "auto",
    shard: tuple[int, int] = (0, 1),
    reduce: Callable[[Tensor], None] | None = None,
) -> Importance:
    """The importance of every parameter of ``model``, measured in eval mode; the model is left as it was.

    Args:
        model: any module; compiled and distributed wrappers are looked through.
        data: batches, in an order that is the same in every process.
        cotangents: the vectors to pull back (:mod:`.cotangents`).
        power: p, 2 or 1.
        forward: how to call the model on inputs and task labels.
        seed: of the draws of cotangents that sample; batch b uses seed + b, whatever process it falls to.
        batch_mean: pull back the mean over each batch instead of each sample; the result is the mean over batches.
        max_bytes: bound for activations, output gradients and per-sample gradients together; at least one sample
            is always taken.
        path: "auto", or "vectorised" or "one_at_a_time" to take the general path for every parameter.
        shard: (rank, number of processes): this process takes every batch b with b mod number = rank.
        reduce: sums a tensor over processes, in place.

    Returns:
        Importance by parameter name, zero where a parameter is frozen or unused, in at least float32.

    Raises:
        ValueError: ``path`` or the model's output is not as said.
        FloatingPointError: an importance is not finite.
    """
    if path not in PATHS:
        raise ValueError(f"path is {path!r}; allowed: {', '.join(PATHS)}")
    model = unwrap(model)
    generator = Generator()
    work = _Pass(model, forward, cotangents, power, max_bytes, path, generator, batch_mean)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    rank, processes = shard
    if device.type == "cpu":
        _keep_freed_memory()
    with evaluation_mode(model):
        for index, batch in enumerate(data):
            if index % processes == rank:
                generator.manual_seed(seed + index)
                batch = batch.to(device)
                work.batch_mean(batch) if batch_mean else work.per_sample(batch)
    terms = torch.tensor(float(work.terms), dtype=torch.float64)
    if reduce is not None:
        terms = terms.to(device, torch.float32)
        reduce(terms)
        for total in work.totals.values():
            reduce(total)
    for name, total in work.totals.items():
        total /= float(terms)
        if not torch.isfinite(total).all():
            bad = total[~torch.isfinite(total)][0].item()
            raise FloatingPointError(f"the importance of {name!r} holds {bad}; every entry must be finite")
    return Importance(work.totals, work.paths)
