"""Everything reachable from a model, so that it can be put back as it was."""

import logging
import random
import types
from collections import deque
from collections.abc import Iterator, MutableMapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset

from clreg_plugins.importance.engine.model import has_memory

_LEAVES = (type, types.ModuleType, logging.Logger, Dataset, DataLoader, torch.optim.Optimizer, str, bytes, int, float)
"""Types that are not traversed: code, and what no forward pass of a model writes to."""

GENERATORS = (Generator, random.Random, np.random.Generator, np.random.RandomState)
"""Random generators whose state can be read and put back."""

LARGE_ARRAY = 2**16
"""Bytes of a NumPy array from which on it is compared at the end of a pass only."""

ALWAYS_COPIED = 2**20
"""Bytes of frozen parameters that are copied however small the bound on memory is."""


class Snapshot:
    """The state of a model and of all that it refers to: attributes, containers, closures, tensors, generators.

    :meth:`rewind` undoes what one forward pass did and is cheap: it compares identities and tensors' versions.
    :meth:`restore` undoes everything, by comparing contents. Random generators go on between forward passes, so that
    draws differ, and are put back by :meth:`restore` alone.

    Of tensors a copy is kept, except of frozen parameters that take more than ``frozen_bytes`` in all and belong to
    modules whose mode is a mere flag: of these a checksum is.

    Args:
        model: where to start.
        frozen_bytes: what copies of frozen parameters may take.
        before: an earlier snapshot of the same model, whose copies are shared where contents have not changed since.
    """

    def __init__(self, model: nn.Module, frozen_bytes: int, before: "Snapshot | None" = None) -> None:
        self._seen: dict[int, Any] = {}
        self._holders: list[tuple[Any, Any]] = []  # a dict, list, set, deque or cell, and what it held
        self._generators: list[tuple[Any, Any]] = []
        self._tensors: list[_TensorState] = []
        shared = {} if before is None else {id(state.tensor): state for state in before._tensors}
        frozen = [p for p in model.parameters() if not p.requires_grad and not _is_lazy(p)]
        self._too_large = set()
        if sum(p.numel() * p.element_size() for p in frozen) > max(frozen_bytes, ALWAYS_COPIED):
            moved = {id(p) for module in model.modules() if has_own_mode(module) for p in module.parameters()}
            self._too_large = {id(p) for p in frozen} - moved
        self._visit(model, shared)

    # ------------------------------------------------------------------- taking it

    def detach_gradients(self) -> None:
        """Take gradients out of the reach of a forward that goes backward itself; :meth:`restore` gives them back."""
        for state in self._tensors:
            if state.grad is not None:
                state.tensor.grad = None

    def _visit(self, root: Any, shared: "dict[int, _TensorState]") -> None:
        stack = [root]
        while stack:
            thing = stack.pop()
            if thing is None or id(thing) in self._seen or isinstance(thing, _LEAVES):
                continue
            self._seen[id(thing)] = thing  # kept alive, so that its id is its own
            if isinstance(thing, Tensor):
                if not _is_lazy(thing):
                    known = shared.get(id(thing))
                    copied = id(thing) not in self._too_large
                    self._tensors.append(_TensorState(thing, copied, known))
                stack.append(getattr(thing, "__dict__", None))
            elif isinstance(thing, (tuple, frozenset)):
                stack.extend(thing)
            elif isinstance(thing, GENERATORS):
                self._generators.append((thing, generator_state(thing)))
            elif isinstance(thing, np.ndarray):
                self._holders.append((thing, thing.copy()))
            elif (held := _contents(thing)) is not None:
                self._holders.append((thing, held))
                stack.extend(_members(held))
                stack.append(getattr(thing, "__dict__", None))
            else:
                stack.extend(_referents(thing))

    # ------------------------------------------------------------------ putting back

    @property
    def draws(self) -> bool:
        """Whether a generator of the model's own has moved since."""
        return any(not same_state(generator_state(g), state) for g, state in self._generators)

    @torch.no_grad()
    def rewind(self) -> None:
        """Undo what a forward pass did: to attributes, containers, and tensors whose version tells."""
        for thing, held in self._holders:
            if not (isinstance(thing, np.ndarray) and thing.nbytes > LARGE_ARRAY):
                _put_back(thing, held)
        for state in self._tensors:
            state.put_back_hooks()
            if state.touched():
                state.put_back()

    @torch.no_grad()
    def restore(self) -> None:
        """Undo everything.

        Raises:
            RuntimeError: a frozen parameter of which there is no copy was written to.
        """
        for thing, held in self._holders:
            _put_back(thing, held)
        for generator, state in self._generators:
            set_generator_state(generator, state)
        written = [state.tensor for state in self._tensors if not state.put_back()]
        if written:
            raise RuntimeError(
                f"a frozen parameter of shape {tuple(written[0].shape)} was written to in the importance pass, and "
                "frozen parameters of this size are not copied; keep the model from changing them, or raise max_bytes"
            )


class _TensorState:
    """One tensor: its storage, content, gradient and whether it requires one."""

    def __init__(self, tensor: Tensor, copied: bool, before: "_TensorState | None") -> None:
        self.tensor, self.data, self.version = tensor, tensor.data, _version(tensor)
        self.requires_grad = tensor.requires_grad if tensor.is_leaf else None
        self.grad = tensor.grad if tensor.is_leaf else None
        self.copy, self.checksum = None, None
        if not copied:
            self.checksum = _checksum(self.data)
        elif before is not None and before.copy is not None and _same_content(before.copy, self.data):
            self.copy = before.copy
        elif has_memory(tensor):
            self.copy = self.data.clone()
        self.hooks = dict(tensor._backward_hooks or {})

    def touched(self) -> bool:
        return self.version != _version(self.tensor) or not _same_storage(self.tensor, self.data)

    def put_back(self) -> bool:
        """Undo what was done to the tensor; False if its content has changed and there is no copy of it."""
        tensor, known = self.tensor, True
        if not _same_storage(tensor, self.data):
            tensor.data = self.data
        if self.copy is not None and not _same_content(self.copy, self.data):
            self.data.copy_(self.copy)  # by .data, which tells autograd nothing: graphs of the user's stay valid
        elif self.checksum is not None:
            known = self.checksum == _checksum(self.data)
        if self.requires_grad is not None and tensor.requires_grad != self.requires_grad:
            tensor.requires_grad_(self.requires_grad)
        if tensor.is_leaf and tensor.grad is not self.grad:
            tensor.grad = self.grad
        self.put_back_hooks()
        self.version = _version(tensor)
        return known

    def put_back_hooks(self) -> None:
        """Remove the hooks on the gradient that a forward pass has registered."""
        if self.tensor._backward_hooks:
            _put_back(self.tensor._backward_hooks, self.hooks)


# ------------------------------------------------------------------------- tensors


def has_own_mode(module: nn.Module) -> bool:
    """Whether a module's mode is more than a flag: it has a ``train`` or ``eval`` of its own."""
    kind = type(module)
    instance = vars(module)
    return (
        kind.train is not nn.Module.train
        or kind.eval is not nn.Module.eval
        or "train" in instance
        or "eval" in instance
    )


def _is_lazy(tensor: Tensor) -> bool:
    return isinstance(tensor, (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer))


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _same_storage(tensor: Tensor, data: Tensor) -> bool:
    if not has_memory(tensor) or not has_memory(data):
        return True
    return tensor.data_ptr() == data.data_ptr() and tensor.shape == data.shape and tensor.stride() == data.stride()


def _bytes(tensor: Tensor) -> Tensor:
    flat = tensor.detach().contiguous().view(-1)
    in_words = flat.nbytes % 8 == 0 and flat.storage_offset() * flat.element_size() % 8 == 0
    return flat.view(torch.int64 if in_words else torch.uint8)


def _same_content(a: Tensor, b: Tensor) -> bool:
    """Whether all bits agree, those of NaN, too."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    x, y = _bytes(a), _bytes(b)
    return torch.equal(x, y) if x.dtype == y.dtype else torch.equal(x.view(torch.uint8), y.view(torch.uint8))


def _checksum(tensor: Tensor) -> tuple[int, int] | None:
    if not has_memory(tensor) or not tensor.numel():
        return None
    numbers = _bytes(tensor)
    return int(numbers.sum(dtype=torch.int64)), int(numbers[1::2].sum(dtype=torch.int64))


# ---------------------------------------------------------------------- containers


def _contents(thing: Any) -> Any:
    """A shallow copy of what a container holds; None for anything else."""
    if isinstance(thing, MutableMapping):
        return dict(thing) if isinstance(thing, dict) else None  # others, such as UserDict, have a dict within
    if isinstance(thing, (list, set, deque, bytearray)):
        return list(thing)
    if isinstance(thing, types.CellType):
        try:
            return (thing.cell_contents,)
        except ValueError:  # an empty cell
            return None
    return None


def _members(held: Any) -> Iterator[Any]:
    return iter(held.values() if isinstance(held, dict) else held)


def _put_back(thing: Any, held: Any) -> None:
    """Make a container hold what it held, in its order; containers that have not changed are not written to."""
    if isinstance(thing, dict):
        if not thing and not held:
            return
        # by identity, since what is held may be equal in a way of its own, or not comparable
        if list(map(id, thing.values())) != list(map(id, held.values())) or list(thing) != list(held):
            thing.clear()
            thing.update(held)
    elif isinstance(thing, types.CellType):
        try:
            same = thing.cell_contents is held[0]
        except ValueError:
            same = False
        if not same:
            thing.cell_contents = held[0]
    elif isinstance(thing, np.ndarray):
        if thing.tobytes() != held.tobytes():
            thing[...] = held
    elif isinstance(thing, set):
        if len(thing) != len(held) or any(member not in thing for member in held):
            thing.clear()
            thing.update(held)
    elif len(thing) != len(held) or any(a is not b for a, b in zip(thing, held, strict=True)):
        thing.clear()
        thing.extend(held)


def _referents(thing: Any) -> list[Any]:
    """What an object or function refers to."""
    if isinstance(thing, types.MethodType):
        return [thing.__self__]
    if isinstance(thing, types.FunctionType):
        return [*(thing.__closure__ or ()), thing.__dict__, thing.__defaults__]
    if isinstance(thing, partial):
        return [thing.func, thing.args, thing.keywords]
    slots = [getattr(thing, name, None) for kind in type(thing).__mro__ for name in _slots(kind)]
    return [getattr(thing, "__dict__", None), *slots]


def _slots(kind: type) -> list[str]:
    names = vars(kind).get("__slots__", ())
    names = (names,) if isinstance(names, str) else names
    return [name for name in names if name not in ("__dict__", "__weakref__")]


# ---------------------------------------------------------------------- generators


def generator_state(generator: Any) -> Any:
    """The state of a random generator of PyTorch's, NumPy's or Python's."""
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def set_generator_state(generator: Any, state: Any) -> None:
    """Put a generator back to a state of :func:`generator_state`."""
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


def same_state(a: Any, b: Any) -> bool:
    """Whether two states of generators are the same."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[key], b[key]) for key in a)
    if isinstance(a, list) or (isinstance(a, tuple) and any(isinstance(member, np.ndarray) for member in a)):
        return len(a) == len(b) and all(map(same_state, a, b))
    return a == b
