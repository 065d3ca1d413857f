"""The state of the process during a pass: gradients on, exact arithmetic, eager; restored afterwards."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from clreg_plugins.importance.engine.snapshot import GENERATORS, generator_state, set_generator_state


@contextlib.contextmanager
def pass_environment(model: nn.Module) -> Iterator[None]:
    """Run what is inside as an importance needs it, and leave no trace of it in the process.

    Gradients are recorded, also within ``no_grad`` and ``inference_mode``; autocast is off, so that the pass runs in
    the precision of the parameters (what the model's own forward switches on stays on); TF32 and its like are off, by
    either of PyTorch's interfaces; cuDNN is off where a recurrent module is (it cannot go backward in eval mode);
    attention's inference-only fast path is off (it has no gradient); compiled models run eagerly (hooks do not fire in
    compiled code).
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    kinds = {"cpu", *(p.device.type for p in model.parameters())} - {"meta"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(random_states())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in sorted(kinds):
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(_exact_float32())
        stack.enter_context(_set(torch.backends.cudnn, enabled=torch.backends.cudnn.enabled and not recurrent))
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextlib.contextmanager
def _set(flags: Any, **values: Any) -> Iterator[None]:
    before = {name: getattr(flags, name) for name in values}
    try:
        for name, value in values.items():
            setattr(flags, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(flags, name, value)


@contextlib.contextmanager
def _exact_float32() -> Iterator[None]:
    """No TF32 or bfloat16 within float32 operations: rules and autograd would round differently.

    PyTorch refuses to read its older flags once the newer ones were written and differ; so the newer ones alone are
    used where there are some.
    """
    backends = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        precision = torch.get_float32_matmul_precision()
        with _set(backends.cuda.matmul, allow_tf32=False), _set(backends.cudnn, allow_tf32=False):
            yield
        torch.set_float32_matmul_precision(precision)  # which allow_tf32 rounds to two of its three values
        return
    with contextlib.ExitStack() as stack:
        for library, operations in (
            (backends.cuda, ("matmul",)),
            (backends.cudnn, ("conv", "rnn")),
            (backends.mkldnn, ("matmul", "conv", "rnn")),
        ):
            for operation in operations:
                flags = getattr(library, operation)
                value = flags.fp32_precision
                if value not in ("none", "ieee"):
                    # what is read may be inherited, and written back as the operation's own it would stay
                    inherited = value in (backends.fp32_precision, getattr(library, "fp32_precision", None))
                    stack.callback(setattr, flags, "fp32_precision", "none" if inherited else value)
                    flags.fp32_precision = "ieee"
        yield


# ------------------------------------------------------------------- random numbers


def _devices() -> list[Any]:
    """Modules of the accelerators that are in use: ``torch.cuda`` and its like."""
    used = [getattr(torch, name) for name in ("cuda", "xpu") if hasattr(torch, name)]
    used = [device for device in used if device.is_available() and device.is_initialized()]
    return used + ([torch.mps] if torch.backends.mps.is_available() else [])


def process_states() -> list[Any]:
    """The states of the process's random generators: PyTorch's on every device in use, NumPy's, Python's."""
    devices = [getattr(d, "get_rng_state_all", d.get_rng_state)() for d in _devices()]
    return [torch.get_rng_state(), np.random.get_state(), random.getstate(), devices]


@contextlib.contextmanager
def random_states() -> Iterator[None]:
    """Put the process's random generators back at the end."""
    in_use = _devices()
    torch_state, numpy_state, python_state, devices = process_states()
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        for device, state in zip(in_use, devices, strict=True):
            getattr(device, "set_rng_state_all", device.set_rng_state)(state)


@contextlib.contextmanager
def loader_states(data: Any) -> Iterator[None]:
    """Put the generators of a DataLoader and its samplers back at the end."""
    generators: list[Any] = []
    if isinstance(data, DataLoader):
        batch_sampler = data.batch_sampler
        for owner in (data, data.sampler, batch_sampler, getattr(batch_sampler, "sampler", None)):
            generators += [held for held in getattr(owner, "__dict__", {}).values() if isinstance(held, GENERATORS)]
    states = [generator_state(generator) for generator in generators]
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            set_generator_state(generator, state)
