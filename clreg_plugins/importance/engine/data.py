"""Samples of a DataLoader, a Dataset or an Avalanche dataset, read as batches."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from avalanche.benchmarks.utils import AvalancheDataset
from torch import Generator, Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset, Subset

from clreg_plugins.importance.engine.batch import Batch, has_rows, size_of

BATCH = 256
"""Samples read at a time by default."""

JOINED, JOINED_BYTES = 1024, 2**25
"""How many samples, and how much of their inputs, are put together at most where it makes no difference.

Without, an MLP 400-400's exact pass takes 1.11 and its empirical one 1.17 times as long (``study.bench.constants``)."""

NO_DATA = (str, bytes, Mapping, type)
"""What has entries and a length, but no samples; of a class it is the instances that have them."""

Unpack = Callable[[Any], tuple]
"""``batch -> (inputs,)``, ``(inputs, targets)`` or ``(inputs, targets, task labels)``."""


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
    if not isinstance(raw, (tuple, list)) or not raw or size_of(raw[0]) == 0:
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
    return places if all(isinstance(t, Tensor) and has_rows(t, n) for t in places.values()) else None


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
