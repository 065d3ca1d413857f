"""A batch: inputs with the samples along the first dimension, in any nest, that can be cut into pieces."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


class Batch(NamedTuple):
    """Inputs with the samples along the first dimension; targets and task labels where the data has them.

    Inputs are a tensor, or a nest of dicts, tuples, lists, dataclasses and packed sequences of some. A tensor within
    whose first dimension is not the number of samples belongs to all of them.
    """

    inputs: Any
    targets: Any = None
    task_labels: Any = None

    @property
    def size(self) -> int:
        """Number of samples: that of the first tensor of the inputs."""
        return size_of(self.inputs)

    def rows(self, start: int, stop: int, step: int = 1) -> "Batch":
        """Samples ``start`` to ``stop``, every ``step``-th of them."""
        n = self.size
        if start <= 0 and stop >= n and step == 1:
            return self
        rows = slice(start, stop, step)

        def cut(t: Tensor) -> Tensor:
            return t[rows] if has_rows(t, n) else t

        return Batch(*(map_tensors(cut, _cut(part, rows, n), n) for part in self))

    @property
    def task(self) -> int | None:
        """The task label of all samples; None if there is none, or they differ."""
        labels = self.task_labels
        return int(labels[0]) if isinstance(labels, Tensor) and len(labels) and same_for_all(labels) else None

    @property
    def is_tensors(self) -> bool:
        """Whether every input that has an entry for each sample is a tensor."""
        return not _holds_samples(self.inputs, self.size)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """``function`` of every tensor."""
        return Batch(*(map_tensors(function, part) for part in self))

    def times(self, number: int) -> "Batch":
        """So many of a batch's only sample."""
        return self.map(lambda t: torch.cat([t] * number) if t.ndim and len(t) == 1 else t)

    def to(self, device: torch.device) -> "Batch":
        """The batch on ``device``, free of graphs and of ``torch.inference_mode``."""
        return self.map(lambda t: _free(t).to(device))

    def sample_tensors(self) -> list[Tensor]:
        """The tensors of inputs and task labels that have a row for each sample."""
        n, found = self.size, []
        map_tensors(lambda t: found.append(t) or t, (self.inputs, self.task_labels))
        return [t for t in found if has_rows(t, n)]

    def with_sample_tensors(self, tensors: list[Tensor]) -> "Batch":
        """Inputs and task labels with others in the place of :meth:`sample_tensors`."""
        n, others = self.size, iter(tensors)
        inputs, labels = map_tensors(lambda t: next(others) if has_rows(t, n) else t, (self.inputs, self.task_labels))
        return Batch(inputs, None, labels)


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any, cut_from: int | None = None) -> Any:
    """``tree`` with ``function`` of every tensor in it.

    Args:
        function: of a tensor.
        tree: a nest of dicts, tuples, lists, dataclasses and packed sequences.
        cut_from: ``function`` takes rows out of this many samples: packed sequences are packed again.
    """
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, PackedSequence):
        if cut_from is None:
            return tree._replace(data=function(tree.data))
        padded, lengths = pad_packed_sequence(tree, batch_first=True)
        return pack_padded_sequence(function(padded), function(lengths), batch_first=True, enforce_sorted=False)
    if isinstance(tree, Mapping):
        return {key: map_tensors(function, value, cut_from) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(function, value, cut_from) for value in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(map_tensors(function, value, cut_from) for value in tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = {f.name: map_tensors(function, getattr(tree, f.name), cut_from) for f in dataclasses.fields(tree)}
        return dataclasses.replace(tree, **fields)
    return tree


def same_for_all(tensor: Tensor) -> bool:
    """Whether all entries of a 1-D integer tensor are equal."""
    return tensor.ndim == 1 and not tensor.is_floating_point() and bool((tensor == tensor[0]).all())


def size_of(tree: Any) -> int:
    """Number of rows of the first tensor that has any, 0 if none has."""
    if isinstance(tree, PackedSequence):
        return int(tree.batch_sizes[0]) if len(tree.batch_sizes) else 0
    if isinstance(tree, Tensor):
        return tree.shape[0] if tree.ndim else 0
    parts = _children(tree)
    if not parts and dataclasses.is_dataclass(tree):
        parts = [getattr(tree, field.name) for field in dataclasses.fields(tree)]
    return next((size for part in parts if (size := size_of(part))), 0)


def has_rows(tensor: Tensor, n: int) -> bool:
    """Whether a tensor has a row for each of ``n`` samples."""
    return tensor.ndim > 0 and tensor.shape[0] == n


def _is_list_of_samples(tree: Any, n: int) -> bool:
    """Whether a list, tuple or array has an entry for each sample, as default collation makes of strings."""
    if isinstance(tree, np.ndarray):
        return tree.ndim > 0 and len(tree) == n
    if type(tree) not in (list, tuple) or len(tree) != n:
        return False
    return not any(isinstance(part, Tensor) and has_rows(part, n) for part in tree)


def _children(tree: Any) -> Iterable[Any]:
    if isinstance(tree, Mapping):
        return tree.values()
    return tree if isinstance(tree, (tuple, list)) and not isinstance(tree, PackedSequence) else ()


def _holds_samples(tree: Any, n: int) -> bool:
    return _is_list_of_samples(tree, n) or any(_holds_samples(part, n) for part in _children(tree))


def _cut(tree: Any, rows: slice, n: int) -> Any:
    """``tree`` with rows taken out of its lists of samples."""
    if not _holds_samples(tree, n):
        return tree
    if _is_list_of_samples(tree, n):
        return tree[rows]
    if isinstance(tree, Mapping):
        return {key: _cut(value, rows, n) for key, value in tree.items()}
    return type(tree)(_cut(value, rows, n) for value in tree)


def _free(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.clone() if tensor.is_inference() else tensor
