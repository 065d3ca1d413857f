"""Whether a forward pass moves rows about, or branches, by what its inputs hold.

Where it does, which sample a row of a layer belongs to may differ from batch to batch, and is checked on every one.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from clreg_plugins.importance.engine.data import Batch

_LEAVING = frozenset(
    [
        "item",
        "tolist",
        "numpy",
        "__array__",
        "__bool__",
        "__int__",
        "__float__",
        "__index__",
        "__contains__",
        "__complex__",
        "__dlpack__",
        "equal",
        "allclose",
        "is_nonzero",
        "_local_scalar_dense",
    ]
)
"""Functions by which data reaches Python, which may do with it what it likes."""

_ORDERING = frozenset(
    [
        "nonzero",
        "nonzero_static",
        "argwhere",
        "unique",
        "_unique2",
        "unique_consecutive",
        "masked_select",
        "sort",
        "argsort",
        "msort",
        "topk",
        "kthvalue",
        "repeat_interleave",
        "bincount",
        "histc",
    ]
)
"""Functions by which data decides about shapes, or about an order."""

_INDEXING = frozenset(
    [
        "__getitem__",
        "__setitem__",
        "index",
        "index_select",
        "index_add",
        "index_copy",
        "index_put",
        "index_fill",
        "index_reduce",
        "gather",
        "scatter",
        "scatter_add",
        "scatter_reduce",
        "take",
        "take_along_dim",
        "masked_scatter",
        "tensor_split",
        "pack_padded_sequence",
        "_pack_padded_sequence",
        "_pad_packed_sequence",
        "embedding_bag",
        "segment_reduce",
        "put",
    ]
)
"""Functions that move rows where one of their integer or boolean arguments says so."""


class RoutingWatch(TorchFunctionMode):
    """Watches the functions of PyTorch that a forward pass calls.

    Attributes:
        by_data: whether one of them moves rows, or gives data to Python, by what the samples hold. What all samples of
            the batch share (buffers, constants, one task label for all) decides the same for each.
        branches: whether one of them gives data to Python.
    """

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.by_data = self.branches = False
        self.inside = False  # a function that is being watched
        self._storages = {_storage(t) for t in batch.sample_tensors() if not _same_for_all(t)}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        self.inside = True
        out = func(*args, **kwargs)
        self.inside = False
        if self.branches:
            return out
        name = getattr(func, "__name__", "")
        given = list(_tensors((*args, *kwargs.values())))
        of_data = [t for t in given if _storage(t) in self._storages]
        if of_data:
            base = name.rstrip("_") if not name.startswith("__") else name
            indexing = base in _INDEXING and any(not t.is_floating_point() for t in of_data)
            condition = base == "where" and len(args) + len(kwargs) == 1
            self.branches |= base in _LEAVING
            self.by_data |= self.branches or base in _ORDERING or "nested" in base or indexing or condition
            if name == "__setitem__" or (name.endswith("_") and not name.startswith("__")):
                out_of = (out, args[0])
            else:
                out_of = (out,)
            self._storages.update(_storage(t) for t in _tensors(out_of))
        else:  # memory of a tensor that is gone may be of another now
            self._storages.difference_update(_storage(t) for t in _tensors((out,)))
        return out


class OpaqueRouting(TorchDispatchMode):
    """Notices operators that move rows, or are no PyTorch's own, where no function of PyTorch's is seen to call them.

    They are within TorchScript or a library of kernels, which nothing sees into: ``run.opaque`` then says that every
    forward pass may move rows by data. Watching operators is slower than watching functions, so that it is done once.
    """

    def __init__(self, run: Any) -> None:
        super().__init__()
        self._run = run

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        namespace, name = func.namespace, func._schema.name.partition("::")[2].rstrip("_")
        watch = self._run.watch
        if watch is not None and not watch.inside:
            moves = name in _LEAVING | _ORDERING | _INDEXING
            self._run.opaque |= moves or namespace not in ("aten", "prim", "prims")
        return func(*args, **(kwargs or {}))


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())


def _storage(tensor: Tensor) -> int:
    """The address of a tensor's memory; 0 for one that has none of its own."""
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        return 0
    return tensor.untyped_storage().data_ptr()


def _same_for_all(tensor: Tensor) -> bool:
    """Whether a list of labels holds but one."""
    return tensor.ndim == 1 and not tensor.is_floating_point() and bool((tensor == tensor[0]).all())
