"""Samples of a DataLoader, a Dataset or an Avalanche dataset, as batches that can be cut into pieces."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset
from torch import Generator, Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, Dataset, Subset

BATCH = 256
"""Samples read at a time by default."""

JOINED, JOINED_BYTES = 1024, 2**25
"""How many samples, and how much of their inputs, are put together at most where it makes no difference.

Without, a MLP 400-400's exact pass takes 1.11 and its empirical one 1.17 times as long (``study.bench.constants``)."""

NO_DATA = (str, bytes, Mapping, type)
"""What has entries and a length, but no samples; of a class it is the instances that have them."""

Unpack = Callable[[Any], tuple]
"""``batch -> (inputs,)``, ``(inputs, targets)`` or ``(inputs, targets, task labels)``."""


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
        return _size(self.inputs)

    def rows(self, start: int, stop: int, step: int = 1) -> "Batch":
        """Samples ``start`` to ``stop``, every ``step``-th of them."""
        n = self.size
        if start <= 0 and stop >= n and step == 1:
            return self
        rows = slice(start, stop, step)

        def cut(t: Tensor) -> Tensor:
            return t[rows] if _has_rows(t, n) else t

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
        return [t for t in found if _has_rows(t, n)]

    def with_sample_tensors(self, tensors: list[Tensor]) -> "Batch":
        """Inputs and task labels with others in the place of :meth:`sample_tensors`."""
        n, others = self.size, iter(tensors)
        inputs, labels = map_tensors(lambda t: next(others) if _has_rows(t, n) else t, (self.inputs, self.task_labels))
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


def _is_list_of_samples(tree: Any, n: int) -> bool:
    """Whether a list, tuple or array has an entry for each sample, as default collation makes of strings."""
    if isinstance(tree, np.ndarray):
        return tree.ndim > 0 and len(tree) == n
    if type(tree) not in (list, tuple) or len(tree) != n:
        return False
    return not any(isinstance(part, Tensor) and _has_rows(part, n) for part in tree)


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


def _size(tree: Any) -> int:
    if isinstance(tree, PackedSequence):
        return int(tree.batch_sizes[0]) if len(tree.batch_sizes) else 0
    if isinstance(tree, Tensor):
        return tree.shape[0] if tree.ndim else 0
    parts: Iterable[Any] = ()
    if isinstance(tree, Mapping):
        parts = tree.values()
    elif isinstance(tree, (tuple, list)):
        parts = tree
    elif dataclasses.is_dataclass(tree):
        parts = (getattr(tree, field.name) for field in dataclasses.fields(tree))
    return next((size for part in parts if (size := _size(part))), 0)


def _has_rows(tensor: Tensor, n: int) -> bool:
    return tensor.ndim > 0 and tensor.shape[0] == n


def _free(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.clone() if tensor.is_inference() else tensor


def batches(
    data: DataLoader | Dataset,
    *,
    batch_size: int | None,
    batches_matter: bool,
    n_samples: int | None,
    num_workers: int,
    generator: Generator,
    unpack: Unpack | None = None,
    task_aware: bool = False,
) -> Iterator[Batch]:
    """The data's batches, in a fixed order.

    A DataLoader is taken as it is, its batch size included, and ``n_samples`` means its first samples. Of a Dataset,
    ``n_samples`` are drawn without replacement, and 256 are read at a time by default; unless ``batches_matter``, these
    batches are then put together as :func:`_joined` says. An Avalanche dataset gives its eval transforms.

    Args:
        unpack: what a batch holds; by default :func:`default_unpack`, with task labels last where the data is
            Avalanche's or the model is ``task_aware``.

    Raises:
        TypeError: ``data`` is none of these, or a batch is none that can be read.
        ValueError: ``data`` is empty, or it is not clear what a batch holds.
    """
    from_avalanche = isinstance(getattr(data, "dataset", data), AvalancheDataset)
    if unpack is None:
        labelled = from_avalanche or task_aware

        def unpack(raw: Any) -> tuple:
            return default_unpack(raw, labelled)

    if isinstance(data, DataLoader):
        yield from _read(iter(data), n_samples, unpack)
    elif isinstance(data, tuple) and any(isinstance(part, Tensor) for part in data):
        raise TypeError(
            "data is a tuple of tensors, which may be inputs and targets, or samples; allowed: a DataLoader, or a "
            "Dataset with a length, such as TensorDataset(inputs, targets)"
        )
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, NO_DATA):
        loader = _loader(data, batch_size or BATCH, n_samples, num_workers, generator)
        with torch.device("cpu"):  # the iterator draws a seed, from a generator that lives there
            raw = iter(loader)
        read = _read(raw, n_samples, unpack)
        yield from read if batches_matter or batch_size is not None else _joined(read)
    else:
        raise TypeError(
            f"data is a {type(data).__name__}; allowed: a DataLoader, or a Dataset with a length (map style)"
        )


def _read(raw_batches: Iterator[Any], n_samples: int | None, unpack: Unpack) -> Iterator[Batch]:
    seen = 0
    for raw in raw_batches:
        parts = unpack(raw)
        if not isinstance(parts, (tuple, list)) or not 1 <= len(parts) <= 3:
            raise TypeError(
                f"unpack returned a {type(parts).__name__}; allowed: (inputs,), (inputs, targets) or "
                "(inputs, targets, task labels)"
            )
        batch = Batch(*parts)
        size = batch.size
        if n_samples is not None and seen + size > n_samples:
            batch = batch.rows(0, n_samples - seen)
        if size:
            yield batch
        seen += size
        if n_samples is not None and seen >= n_samples:
            break
    if seen == 0:
        raise ValueError("data is empty; an importance needs at least one sample")


def default_unpack(raw: Any, labelled: bool) -> tuple:
    """What a batch holds: see ``unpack`` of :class:`PassOptions`.

    Args:
        raw: a batch.
        labelled: with task labels last.
    """
    if isinstance(raw, (Tensor, PackedSequence)):
        return (raw,)
    if isinstance(raw, Mapping):
        names = [name for name in ("labels", "label") if name in raw]
        inputs = {name: value for name, value in raw.items() if name not in names}
        return (inputs, raw[names[0]]) if names else (inputs,)
    if not isinstance(raw, (tuple, list)) or not raw or _size(raw[0]) == 0:
        raise TypeError(
            f"a batch of the data is a {type(raw).__name__}; allowed: a tensor, a dict, or a tuple or list (inputs, "
            "targets) of these; of others, unpack=lambda batch: (inputs, targets) says what they hold"
        )
    if len(raw) <= 2:
        return tuple(raw)
    if not labelled:
        raise ValueError(
            f"a batch of the data has {len(raw)} parts, and which are inputs and which targets is not clear; say so by "
            "unpack=lambda batch: (inputs, targets)"
        )
    return raw[0], raw[1], raw[-1]


def _joined(read: Iterator[Batch]) -> Iterator[Batch]:
    """The same samples in larger batches, of 1024 or of inputs of 32 MiB at most, as far as shapes and types agree.

    A pass has some overhead per batch, which matters for a small model on small images.
    """
    held: list[Batch] = []
    for batch in read:
        if held and not _fit_together([*held, batch]):
            whole, held = _put_together(held), []  # of which no part is kept meanwhile
            yield whole
        held.append(batch)
    if held:
        whole, held = _put_together(held), []
        yield whole


def _fit_together(batches: list[Batch]) -> bool:
    parts = [_parts(batch) for batch in batches]
    if any(tensors is None for tensors in parts):
        return False
    alike = {tuple((key, t.shape[1:], t.dtype, t.device) for key, t in tensors.items()) for tensors in parts}
    size = sum(batch.size for batch in batches)
    of_inputs = sum(t.nbytes for tensors in parts for place, t in tensors.items() if isinstance(place, tuple))
    return len(alike) == 1 and size <= JOINED and of_inputs <= JOINED_BYTES


def _parts(batch: Batch) -> dict[Any, Tensor] | None:
    """The tensors of a batch by their places; None if it holds anything else, or nests deeper than one list or dict."""
    inputs = batch.inputs
    if isinstance(inputs, dict):
        inside = inputs.items()
    else:
        inside = enumerate(inputs) if type(inputs) in (list, tuple) else [(None, inputs)]
    places = {("inputs", key): part for key, part in inside}
    places.update({name: part for name, part in zip(Batch._fields[1:], batch[1:], strict=True) if part is not None})
    n = batch.size
    return places if all(isinstance(t, Tensor) and _has_rows(t, n) for t in places.values()) else None


def _put_together(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    parts = [_parts(batch) for batch in batches]
    whole = {place: torch.cat([tensors[place] for tensors in parts]) for place in parts[0]}
    inputs = batches[0].inputs
    inside = {place[1]: t for place, t in whole.items() if isinstance(place, tuple)}
    if not isinstance(inputs, dict):
        inside = type(inputs)(inside.values()) if type(inputs) in (list, tuple) else inside[None]
    return Batch(inside, whole.get("targets"), whole.get("task_labels"))


def _loader(
    data: Any,
    batch_size: int,
    n_samples: int | None,
    num_workers: int,
    generator: Generator,
) -> DataLoader:
    from_avalanche = isinstance(data, AvalancheDataset)
    if from_avalanche:
        data = data.eval()
    if n_samples is not None and n_samples < len(data):
        chosen = drawn_rows(len(data), n_samples, generator).tolist()
        data = data.subset(chosen) if from_avalanche else Subset(data, chosen)
    return DataLoader(
        data,
        batch_size=batch_size,
        collate_fn=data.collate_fn if from_avalanche else None,
        num_workers=num_workers,
        generator=generator,  # else iterating would draw from the global one
    )


def drawn_rows(size: int, n: int, generator: Generator) -> Tensor:
    """Which ``n`` of ``size`` samples are drawn without replacement, in order; all of them if there are no more."""
    return torch.randperm(size, generator=generator, device="cpu")[:n].sort().values
