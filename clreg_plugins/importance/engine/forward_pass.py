"""Running the model on samples, from the state that it had before, and gradients of its outputs."""

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from clreg_plugins.importance.engine.batch import Batch, map_tensors
from clreg_plugins.importance.engine.environment import process_states
from clreg_plugins.importance.engine.layer_rules import Moments
from clreg_plugins.importance.engine.model import Forward, state_dtype
from clreg_plugins.importance.engine.recording import Recorder
from clreg_plugins.importance.engine.routing import RoutingWatch
from clreg_plugins.importance.engine.snapshot import Snapshot, same_state


class UnusableOutput(ValueError):
    """A model's output has no row for each sample."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    told = ("out of memory", "not enough memory", "can't allocate memory", "_ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in told)


class ForwardPass:
    """The model as a function of a batch: each call starts from the same state, whatever the one before left.

    Attributes:
        model: without wrappers.
        forward: how to call it.
        recorder: what it records of layers.
        snapshot: the state to start from.
        draws: whether a recorded call has drawn random numbers, so that two calls do not agree.
        by_data: whether the latest recorded call moved rows, or branched, by what its samples hold.
        branches: whether it gave what they hold to Python, which may branch by it.
        sets_data: whether a recorded call has assigned to a tensor's ``data``.
        opaque: whether the model moves rows where it cannot be watched.
        watch: of the call under way.
    """

    def __init__(self, model: nn.Module, forward: Forward, recorder: Recorder, snapshot: Snapshot) -> None:
        self.model, self.forward, self.recorder, self.snapshot = model, forward, recorder, snapshot
        self.draws = self.by_data = self.branches = self.sets_data = False
        # the inside of compiled TorchScript is not to be seen
        self.opaque = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
        self.watch: RoutingWatch | None = None
        kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
        self._norms = [module for module in model.modules() if isinstance(module, kinds)]

    def __call__(self, batch: Batch, record: bool = False) -> Tensor:
        """z, with the samples along its first dimension.

        Args:
            batch: the samples.
            record: let :attr:`recorder` record the calls of layers, and watch for what moves rows.

        Raises:
            UnusableOutput: the output is no tensor with a row for each sample.
        """
        n = batch.size
        z = self._run(batch, record)
        if n == 1 and isinstance(z, Tensor) and (z.ndim == 0 or z.shape[0] != 1):
            # a model that squeezes takes the only sample for no dimension: give it two of them
            try:
                twice = self._run(batch.times(2), record)
            except Exception as error:  # of an input with one row for a batch of more, whose output is refused below
                if is_out_of_memory(error):
                    raise
                twice = None
            if isinstance(twice, Tensor) and twice.ndim > z.ndim and len(twice) == 2:
                return twice[:1]
        if not isinstance(z, Tensor) or z.ndim == 0 or z.shape[0] != n:
            got = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else f"a {type(z).__name__}"
            raise UnusableOutput(
                f"the model's output is {got} for a batch of {n}; an importance needs a tensor with the samples "
                "along its first dimension; of other outputs, forward= can return it"
            )
        return z

    def _run(self, batch: Batch, record: bool) -> Any:
        self.snapshot.rewind()
        before = process_states() if record else None
        own = Batch(*map_tensors(torch.clone, (batch.inputs, None, batch.task_labels)))  # it may write into its inputs
        with contextlib.ExitStack() as stack:
            for module in self._norms if batch.size == 1 else ():
                stack.enter_context(module.register_forward_hook(_contiguous_gradient))
            if record:
                stack.enter_context(self.recorder.recording(batch.size))
                stack.callback(setattr, self, "watch", None)
                self.watch = watch = stack.enter_context(RoutingWatch(own))
            z = self.forward(self.model, own.inputs, own.task_labels)
        if record:
            self.by_data, self.branches = watch.by_data or self.opaque, watch.branches
            self.sets_data |= watch.sets_data
            self.draws = self.draws or self.snapshot.draws or not same_state(before, process_states())
        return z


def _contiguous_gradient(module: nn.Module, args: tuple, output: Any) -> None:
    """PyTorch's CPU kernels give a wrong gradient for a norm of one image whose gradient has channels last."""
    if isinstance(output, Tensor) and output.requires_grad:
        output.register_hook(Tensor.contiguous)


def gradients_of(outputs: Tensor, parameters: dict[str, Tensor], v: Tensor) -> dict[str, Tensor]:
    """``vᵀ ∂outputs/∂θ`` for the parameters that the outputs depend on."""
    if not parameters or not outputs.requires_grad:
        return {}
    gradients = torch.autograd.grad(
        outputs,
        list(parameters.values()),
        v,
        retain_graph=True,
        allow_unused=True,
    )
    return {
        name: gradient.to_dense() if gradient.is_sparse else gradient
        for name, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None
    }


def squares_of(outputs: Tensor, parameters: dict[str, Tensor], vectors: Iterable[Tensor]) -> Moments:
    """``Σ_v (vᵀ ∂outputs/∂θ)²`` for the parameters that the outputs depend on, in at least float32."""
    squares: Moments = {}
    for v in vectors:
        for name, gradient in gradients_of(outputs, parameters, v).items():
            square = gradient.to(state_dtype(gradient)).square()
            squares[name] = squares[name].add_(square) if name in squares else square
    return squares
