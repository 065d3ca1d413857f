"""The general path: per-sample gradients of any parameter of any model; slower than a rule, the same numbers."""

import re
import warnings
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from clreg_plugins.importance.engine.batch import Batch
from clreg_plugins.importance.engine.cotangents import Cotangents
from clreg_plugins.importance.engine.forward_pass import ForwardPass, gradients_of, is_out_of_memory, squares_of
from clreg_plugins.importance.engine.layer_rules import Moments
from clreg_plugins.importance.engine.model import state_dtype
from clreg_plugins.importance.engine.verification import Verdict, compare

GROUP = 16
"""Cotangents that are held together where their order of summation is free.

One by one, a CNN's exact pass takes 1.05 times as long (``study.bench.constants``)."""

# What vmap raises where a model cannot be vectorised: data-dependent control flow, an operation without a batching
# rule, an in-place write into a tensor of another sample. A model that is itself broken raises again one at a time.
_NOT_VECTORISABLE = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    IndexError,
    KeyError,
    NotImplementedError,
)


def in_groups(vectors: Iterator[Tensor]) -> Iterator[list[Tensor]]:
    """:data:`GROUP` cotangents at a time."""
    while group := list(islice(vectors, GROUP)):
        yield group


class GeneralPath:
    """Moments of parameters that no rule covers.

    Attributes:
        reason: why samples were taken one at a time, in one line; None while they were not.
    """

    def __init__(
        self, run: ForwardPass, cotangents: Cotangents, power: int, generator: Generator, max_bytes: int, path: str
    ) -> None:
        self.run, self.cotangents, self.power, self.generator = run, cotangents, power, generator
        self.max_bytes, self.path = max_bytes, path
        self.reason: str | None = "path is 'one_at_a_time'" if path == "one_at_a_time" else None
        self._alone = True  # whether a single sample can be run
        self._verified: set[tuple[str, int | None]] = set()  # parameters whose vectorised gradients hold, by task

    def moments(self, parameters: dict[str, Tensor], batch: Batch, z: Tensor, epsilon: float) -> tuple[Moments, str]:
        """``Σ_n (Σ_k G_nk²)^(p/2)`` of some samples, and how they were computed: "vectorised" or "one_at_a_time".

        Args:
            parameters: those asked for, under the model's own names.
            batch: the samples.
            z: the model's outputs for them, without a graph.
            epsilon: the coarsest rounding in the model.

        Raises:
            ValueError: the model mixes the samples of a batch, or ``path`` asks for what cannot be had.
        """
        state = self.generator.get_state()
        if self.reason is None:
            if any(p._backward_hooks for p in parameters.values()):
                self.reason = "torch.func passes by the hooks on gradients"
            elif self.run.draws:
                self.reason = "the forward pass draws random numbers"
            elif self.run.sets_data:  # its tensors would go on as wrappers of torch.func's, which crash
                self.reason = "the forward pass assigns to the data of a tensor"
            elif not batch.is_tensors:
                self.reason = "the inputs hold samples that are no tensors"
        if self.reason is None:
            found = self._vectorised(parameters, batch, z, epsilon)
            if found is not None:
                return found, "vectorised"
            self.generator.set_state(state)
        if self.path == "vectorised":
            raise ValueError(f"path is 'vectorised', but {self.reason}; allowed: auto, one_at_a_time")
        return self._one_at_a_time(parameters, batch, z, epsilon), "one_at_a_time"

    # ------------------------------------------------------------------- vectorised

    def _vectorised(self, parameters: dict[str, Tensor], batch: Batch, z: Tensor, epsilon: float) -> Moments | None:
        """By ``torch.func``: vmap over samples of a vector–Jacobian product; None where the model resists."""
        size = sum(p.numel() * p.element_size() for p in parameters.values())
        chunk = max(1, self.max_bytes // (8 * max(1, size + GROUP * z[:1].numel() * z.element_size())))
        totals: Moments = {}
        try:
            for start in range(0, batch.size, chunk):
                part = batch.rows(start, start + chunk)
                squares = self._squares_by_vmap(parameters, part, z[start : start + chunk], epsilon)
                for name, value in squares.items():
                    value = (value if self.power == 2 else value.sqrt()).sum(dim=0)
                    totals[name] = totals[name].add_(value) if name in totals else value
        except _NOT_VECTORISABLE as error:
            if is_out_of_memory(error):
                raise
            first_sentence = re.split(r"\n|(?<=[a-z])\. ", str(error).strip())[0]
            self.reason = f"vmap cannot run this model: {type(error).__name__}: {first_sentence}"
            return None
        finally:
            self.run.snapshot.rewind()  # a tensor of torch.func's must not stay on the model
        return totals

    @torch.no_grad()
    def _squares_by_vmap(self, parameters: dict[str, Tensor], batch: Batch, z: Tensor, epsilon: float) -> Moments:
        bound = _Bound(self.run)
        values = {f"run_model.{name}": p.detach() for name, p in parameters.items()}

        def one_sample(tensors: list[Tensor], v: Tensor) -> tuple[Tensor, Moments]:
            """z and Σ_k G_k² of one sample, whose tensors are without its dimension; v has shape (K, *output)."""
            sample = batch.with_sample_tensors([t.unsqueeze(0).clone() for t in tensors])
            outputs, pull_back = vjp(lambda changed: functional_call(bound, changed, (sample,)), values)
            squares: Moments = {}
            for k in range(v.shape[0]):
                (gradients,) = pull_back(v[k].unsqueeze(0))
                for name, gradient in gradients.items():
                    square = gradient.to(state_dtype(gradient)).square()
                    squares[name] = squares[name] + square if name in squares else square
            return outputs.squeeze(0), squares

        totals: Moments = {}
        tensors = batch.sample_tensors()
        for group in in_groups(self.cotangents.vectors(z, batch.targets, self.generator)):
            self.run.snapshot.rewind()
            # the one attention kernel that vmap can batch; its loops stay inside it
            with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="There is a performance drop")
                again, squares = vmap(one_sample)(tensors, torch.stack(group, dim=1))
            if difference(again, z, epsilon):
                raise RuntimeError("its outputs differ from those of the batch")
            squares = {name.removeprefix("run_model."): value for name, value in squares.items()}
            if not totals:
                self._verify(parameters, batch, group, squares, epsilon)
            for name, value in squares.items():
                totals[name] = totals[name].add_(value) if name in totals else value
        return totals

    @torch.enable_grad()
    def _verify(
        self, parameters: dict[str, Tensor], batch: Batch, group: list[Tensor], squares: Moments, epsilon: float
    ) -> None:
        """Raise RuntimeError where Σ_k G_k² of a sample is not that of its gradients by autograd.

        ``functional_call`` puts other tensors into a module's attributes, and misses a parameter that the forward pass
        reaches by a list, a closure or a cache. Each is checked until there is a sample with a gradient at it.
        """
        task = batch.task

        def unverified() -> dict[str, Tensor]:
            return {name: p for name, p in parameters.items() if (name, task) not in self._verified}

        def check(n: int) -> None:
            """Of the sample n."""
            want = squares_of(self.run(batch.rows(n, n + 1)), unverified(), (v[n : n + 1] for v in group))
            largest = max((float(each.max()) for each in want.values() if each.numel()), default=0.0) ** 0.5
            for name in unverified():
                got = squares[name][n]
                expected = want.get(name, torch.zeros_like(got))
                verdict = compare({name: got}, {name: expected}, True, epsilon, 8 * epsilon * largest)
                if verdict is Verdict.WRONG:
                    raise RuntimeError(f"its gradients of {name} differ from autograd's")
                if verdict is Verdict.HOLDS:
                    self._verified.add((name, task))

        if unverified():
            check(0)
        if unverified():
            outputs, v = self.run(batch), sum((k + 1) * v for k, v in enumerate(group))
            for name in unverified():
                n = _sample_with_a_gradient(outputs, parameters[name], v) if name in unverified() else None
                if n:  # the sample 0 has been checked
                    check(n)

    # ---------------------------------------------------------------- one at a time

    def _one_at_a_time(self, parameters: dict[str, Tensor], batch: Batch, z: Tensor, epsilon: float) -> Moments:
        """By K backward passes for each sample, whose cotangents and gradients are of one and the same forward pass."""
        totals = {name: torch.zeros(p.shape, dtype=state_dtype(p), device=p.device) for name, p in parameters.items()}

        def add(outputs: Tensor, targets: Tensor | None, only: Callable[[Tensor], Tensor] = lambda v: v) -> None:
            vectors = self.cotangents.vectors(outputs.detach(), targets, self.generator)
            squares = squares_of(outputs, parameters, map(only, vectors))
            for name, square in squares.items():
                totals[name] += square if self.power == 2 else square.sqrt()

        for n in range(batch.size if self._alone else 0):
            sample = batch.rows(n, n + 1)
            try:
                alone = self.run(sample)
            except Exception as error:
                # a model that cannot run on one sample (it holds a state for each of a batch) runs on the whole batch
                if n or batch.size == 1 or is_out_of_memory(error):
                    raise
                self._alone = False
                break
            if not self.run.draws:
                refuse_mixing(alone.detach(), z[n : n + 1], epsilon)
            add(alone, sample.targets)
        if not self._alone:
            whole, state = self.run(batch), self.generator.get_state()
            for n in range(batch.size):
                self.generator.set_state(state)
                row = torch.arange(batch.size, device=whole.device).eq(n).view(-1, *[1] * (whole.ndim - 1))
                add(whole, batch.targets, lambda v, row=row: v * row)
        return totals


class _Bound(nn.Module):
    """A run of the model as a module, so that ``functional_call`` reaches the model's parameters."""

    def __init__(self, run: ForwardPass) -> None:
        super().__init__()
        self.run_model = run.model
        self._run = run

    def forward(self, batch: Batch) -> Tensor:
        """The model's output."""
        return self._run.forward(self.run_model, batch.inputs, batch.task_labels)


def _sample_with_a_gradient(outputs: Tensor, parameter: Tensor, v: Tensor) -> int | None:
    """A sample whose vᵀ ∂outputs/∂θ is not 0, by halving the batch; None if there is none."""

    def size(start: int, stop: int) -> float:
        part = torch.zeros_like(v)
        part[start:stop] = v[start:stop]
        return max((float(g.norm()) for g in gradients_of(outputs, {"": parameter}, part).values()), default=0.0)

    start, stop = 0, len(v)
    if not size(start, stop):
        return None
    while stop - start > 1:
        middle = (start + stop) // 2
        start, stop = max((start, middle), (middle, stop), key=lambda half: size(*half))
    return start


# ------------------------------------------------------------------------- shared


def difference(a: Tensor, b: Tensor, epsilon: float) -> float:
    """The largest difference between two outputs, or 0.0 if rounding explains it, or one is not a number.

    Its scale is the largest of the outputs that differ at all: others may be masks, which may be infinite.
    """
    if a.shape != b.shape:
        return float("inf")
    gap = torch.where(a == b, 0, (a - b).abs())  # equal infinities have no difference
    if not gap.any():
        return 0.0
    largest = torch.where((gap > 0) & b.isfinite(), b.abs(), 0).max()
    tolerance = min(8 * epsilon**0.5, max(2.0**-9, 16 * epsilon))
    return 0.0 if (gap <= tolerance * largest).all() or gap.isnan().any() else float(gap.max())


def refuse_mixing(alone: Tensor, in_batch: Tensor, epsilon: float) -> None:
    """Raise ValueError if a sample's output depends on the other samples of its batch."""
    if gap := difference(alone, in_batch, epsilon):
        raise ValueError(
            f"the outputs of samples alone differ from those in a batch, by up to {gap:.3g}: the model mixes the "
            'samples of a batch, so that none has a gradient of its own; allowed with it: variant "batched", '
            "per_sample=False"
        )
