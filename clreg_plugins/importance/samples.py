"""Samples of a DataLoader, a Dataset or an Avalanche dataset, as batches of tensors."""

from collections.abc import Iterator, Sized
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Subset

BATCH = 256
"""Samples read at a time where nothing else is said."""

JOINED, JOINED_BYTES = 1024, 2**25
"""How many samples, and how much of their inputs, are put together at most where it makes no difference."""


class Batch(NamedTuple):
    """Inputs with the samples along the first dimension; targets and task labels where the data has them."""

    inputs: Tensor
    targets: Tensor | None
    task_labels: Tensor | None

    def rows(self, start: int, stop: int) -> "Batch":
        """Samples ``start`` to ``stop``."""
        return Batch(*(None if t is None else t[start:stop] for t in self))

    def to(self, device: torch.device) -> "Batch":
        """The batch on ``device``."""
        return Batch(*(None if t is None else t.to(device) for t in self))


def batches(
    data: DataLoader | Dataset,
    *,
    batch_size: int | None,
    batches_matter: bool,
    n_samples: int | None,
    num_workers: int,
    generator: Generator,
) -> Iterator[Batch]:
    """Batches of ``(inputs,)``, ``(inputs, targets)`` or ``(inputs, targets, …, task labels)``, in a fixed order.

    A DataLoader is taken as it is, its batch size included, and ``n_samples`` means its first samples. Of a Dataset,
    ``n_samples`` are drawn without replacement, and 256 are read at a time by default; unless ``batches_matter``, these
    batches are then put together as :func:`_joined` says. An Avalanche dataset gives its eval transforms.

    Raises:
        TypeError: ``data`` is none of these, or its samples are not tensors.
        ValueError: ``data`` is empty.
    """
    if isinstance(data, DataLoader):
        yield from _read(data, n_samples)
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        read = _read(_loader(data, batch_size or BATCH, n_samples, num_workers, generator), n_samples)
        yield from read if batches_matter or batch_size is not None else _joined(read)
    else:
        raise TypeError(
            f"data is a {type(data).__name__}; allowed: a DataLoader, or a Dataset with a length (map style)"
        )


def _read(loader: DataLoader, n_samples: int | None) -> Iterator[Batch]:
    seen = 0
    for raw in loader:
        batch = _unpack(raw)
        size = len(batch.inputs)
        if n_samples is not None and seen + size > n_samples:
            batch = batch.rows(0, n_samples - seen)
        if len(batch.inputs):
            yield batch
        seen += size
        if n_samples is not None and seen >= n_samples:
            break
    if seen == 0:
        raise ValueError("data is empty; an importance needs at least one sample")


def _joined(read: Iterator[Batch]) -> Iterator[Batch]:
    """The same samples in larger batches, of 1024 or of inputs of 32 MiB at most, as far as shapes and types agree.

    What a pass does between its operations it does once a batch, and with a small model on small images that weighs.
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
    alike = {tuple(None if t is None else (t.shape[1:], t.dtype, t.device) for t in batch) for batch in batches}
    size = sum(len(batch.inputs) for batch in batches)
    return len(alike) == 1 and size <= JOINED and sum(batch.inputs.nbytes for batch in batches) <= JOINED_BYTES


def _put_together(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    return Batch(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*batches, strict=True)))


def _loader(
    data: Any,
    batch_size: int,
    n_samples: int | None,
    num_workers: int,
    generator: Generator,
) -> DataLoader:
    if hasattr(data, "eval") and hasattr(data, "train"):  # an Avalanche dataset, with a transform group for each
        data = data.eval()
    collate = getattr(data, "collate_fn", None)
    size = len(data) if isinstance(data, Sized) else 0
    if n_samples is not None and n_samples < size:
        chosen = drawn_rows(size, n_samples, generator).tolist()
        data = data.subset(chosen) if hasattr(data, "subset") else Subset(data, chosen)
    return DataLoader(
        data,
        batch_size=batch_size,
        collate_fn=collate,
        num_workers=num_workers,
        generator=generator,  # else iterating would draw from the global one
    )


def drawn_rows(size: int, n: int, generator: Generator) -> Tensor:
    """Which ``n`` of ``size`` samples are drawn without replacement, in order; all of them if there are no more."""
    return torch.randperm(size, generator=generator)[:n].sort().values


def _unpack(raw: Any) -> Batch:
    parts = (raw,) if isinstance(raw, Tensor) else tuple(raw) if isinstance(raw, (tuple, list)) else ()
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(
            f"a batch of the data is a {type(raw).__name__}; allowed: a tensor of inputs, or a tuple or list of "
            "tensors (inputs, targets, …, task labels)"
        )
    return Batch(
        parts[0],
        parts[1] if len(parts) > 1 else None,
        parts[-1] if len(parts) > 2 else None,
    )
