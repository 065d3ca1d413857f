"""Whether a forward pass moves rows about, or branches, by what its inputs hold.

Where it does, which sample a row of a layer belongs to may differ from batch to batch, and is checked on every one.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from clreg_plugins.importance.engine.batch import Batch, same_for_all
from clreg_plugins.importance.engine.model import has_memory

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
"""Functions by which data reaches Python, where anything may depend on it."""

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
        "cumsum",
        "cumprod",
        "one_hot",
        "argmax",
        "argmin",
        "searchsorted",
        "bucketize",
    ]
)
"""Functions by which data decides about shapes, places, or an order."""

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

_PRODUCTS = frozenset(["mm", "matmul", "__matmul__", "__rmatmul__", "addmm", "einsum", "tensordot"])
"""Products that can move rows, where one factor is a matrix of places."""


_SET_DATA = Tensor.data.__set__
"""By which ``tensor.data = …`` is seen; equal to the function that is called, and another object each time."""


class RoutingWatch(TorchFunctionMode):
    """Watches the functions of PyTorch that a forward pass calls.

    Attributes:
        by_data: whether one of them moves rows, or gives data to Python, by what the samples hold. What all samples of
            the batch share (buffers, constants, one task label for all) decides the same for each.
        branches: whether one of them gives data to Python.
        sets_data: whether the forward pass assigns to a tensor's ``data``.
    """

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.by_data = self.branches = self.sets_data = False
        self.inside = False  # a function that is being watched
        self._storages = {_storage(t) for t in batch.sample_tensors() if not same_for_all(t)} - {0}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        self.inside = True
        try:
            out = func(*args, **kwargs)
        finally:
            self.inside = False
        self.sets_data |= func == _SET_DATA
        if self.branches:
            return out
        name = getattr(func, "__name__", "").partition(".")[0]  # of an operator, "index.Tensor"
        if any(_storage(t) in self._storages for t in _tensors((*args, *kwargs.values()))):
            base = name.rstrip("_") if not name.startswith("__") else name
            places = [t for t in _tensors((*args[1:], *kwargs.values())) if _storage(t) in self._storages]
            self.branches |= base in _LEAVING
            self.by_data |= (
                self.branches
                or base in _ORDERING
                or "nested" in base
                or (base in _INDEXING and any(not t.is_floating_point() for t in places))
                or (base == "where" and len(args) + len(kwargs) == 1)
                or (base == "embedding" and any(t.is_floating_point() for t in places))
                or (base in _PRODUCTS and self._over_samples(base, args))
            )
            in_place = name == "__setitem__" or (name.endswith("_") and not name.startswith("__"))
            written = (out, args[0]) if in_place else (out,)
            self._storages.update(filter(None, map(_storage, _tensors(written))))
        else:  # memory of a tensor that is gone may be of another now
            self._storages.difference_update(_storage(t) for t in _tensors((out,)))
        return out

    def _over_samples(self, name: str, args: tuple) -> bool:
        """Whether a product of two tensors of data may sum over samples, as one with a matrix of places does."""
        factors = [t for t in _tensors(args) if _storage(t) in self._storages]
        if len(factors) < 2:
            return False
        if name == "einsum" and isinstance(args[0], str) and "->" in args[0]:
            operands, _, result = args[0].replace(" ", "").partition("->")
            return operands[0] not in result
        return name in ("einsum", "tensordot") or all(t.ndim <= 2 for t in factors)


class OpaqueRouting(TorchDispatchMode):
    """Notices operators that move rows, or are no PyTorch's own, where no function of PyTorch's is seen to call them.

    They are within TorchScript or a library of kernels, which nothing sees into: ``run.opaque`` then says that every
    forward pass may move rows by data. Watching operators is slower than watching functions, so that it is done once.
    """

    def __init__(self, run: Any) -> None:
        super().__init__()
        self._run = run

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        namespace, name = func.namespace, func.name().partition("::")[2].partition(".")[0].rstrip("_")
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
    return tensor.untyped_storage().data_ptr() if has_memory(tensor) else 0
