"""In-memory batches in place of Avalanche's loader."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.supervised import Cumulative, JointTraining
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, default_collate

from study.run.benchmarks import InMemory
from study.run.data import Encoding

Columns = list[Tensor]  # inputs, targets and task labels, each of length N

ROWS_AT_A_TIME = 256  # small enough for the processor's cache, and no second copy of a large dataset


def columns_of(dataset: Any, device: torch.device, encoding: Encoding | None = None) -> Columns:
    """All samples of a dataset as one batch on ``device``, transforms applied once; inputs as bytes with ``encoding``.

    Raises:
        ValueError: the dataset is empty.
    """
    n = len(dataset)
    if n == 0:
        raise ValueError("an experience has no samples")
    columns: Columns = []
    for start in range(0, n, ROWS_AT_A_TIME):
        stop = min(start + ROWS_AT_A_TIME, n)
        rows = _rows(dataset, range(start, stop))
        if encoding is not None:
            rows[0] = encoding.encode(rows[0])
        if not columns:
            columns = [torch.empty(n, *part.shape[1:], dtype=part.dtype, device=device) for part in rows]
        for column, part in zip(columns, rows, strict=True):
            column[start:stop] = part
    return columns


def _rows(dataset: Any, indices: range) -> Columns:
    if isinstance(dataset, InMemory):
        return dataset.batch(indices)
    read = getattr(dataset, "__getitems__", lambda indices: [dataset[i] for i in indices])
    return default_collate(read(indices))


class InMemoryBatches(SupervisedPlugin, supports_distributed=False):
    """Feeds a strategy from memory (on a GPU: from its memory), in an order that only the seed decides.

    Every sample is read once per experience, where Avalanche's loader reads each in every epoch, and a batch indexes
    tensors. The order has its own generator, so all methods see the same batches. For data that fits in memory without
    random augmentation. Samples of several tasks are shuffled together, not balanced in every batch.

    Args:
        seed: of the order.
        iterations: see :class:`Batches`.
        encoding: of the inputs. On a CPU they are kept as bytes, a quarter of the memory, and decoded batch by batch to
            the same bits; None keeps them as they are.

    Attributes:
        columns: the data of the current experience; replay adds to them in ``before_training_exp``.
    """

    def __init__(self, seed: int, iterations: int | None = None, encoding: Encoding | None = None) -> None:
        super().__init__()
        self.iterations = iterations
        self._encoding = encoding if encoding is not None and encoding.is_exact() else None
        self._generator = torch.Generator().manual_seed(seed)
        self._evaluated: dict[tuple[str, int], Columns] = {}
        self.columns: Columns = []

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        self.columns = self._read(strategy)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Replace the strategy's loader.

        Raises:
            ValueError: this or a later experience is smaller than a batch, if only full batches count.
        """
        size = strategy.train_mb_size
        if self.iterations is not None and not isinstance(strategy, Cumulative | JointTraining):  # whose data grows
            sizes = [len(experience.dataset) for experience in strategy.experience.origin_stream]
            if size > min(sizes):
                raise ValueError(
                    f"training.batch_size = {size}: experience {sizes.index(min(sizes))} has {min(sizes)} samples, and "
                    f"iterations have full batches only; allowed: at most {min(sizes)}"
                )
        strategy.dataloader = Batches(self.columns, size, self._generator, self.iterations, self._encoding)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.columns = []

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        key = strategy.experience.origin_stream.name, strategy.experience.current_experience
        if key not in self._evaluated:
            self._evaluated[key] = self._read(strategy)
        strategy.dataloader = Batches(self._evaluated[key], strategy.eval_mb_size, encoding=self._encoding)

    def _read(self, strategy: Any) -> Columns:
        # inputs decoded on a GPU would differ in their last bit: it divides by a constant in another way
        encoding = self._encoding if strategy.device.type == "cpu" else None
        return columns_of(strategy.adapted_dataset, strategy.device, encoding)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_evaluated": {}, "columns": []}


@dataclass(frozen=True)
class Batches:
    """Iterates over the rows of columns in batches.

    Args:
        columns: each with N rows.
        batch_size: rows in a batch; the last of an epoch may be smaller.
        generator: draws a new order for each epoch; None keeps the order of the rows.
        iterations: how many batches, only full ones, over as many epochs as needed; None for one epoch.
        encoding: of the first column, if it holds bytes.

    Raises:
        ValueError: fewer rows than a batch, if only full batches count.
    """

    columns: Columns
    batch_size: int
    generator: torch.Generator | None = None
    iterations: int | None = None
    encoding: Encoding | None = None

    def __post_init__(self) -> None:
        if self.iterations is not None and len(self.columns[0]) < self.batch_size:
            n = len(self.columns[0])
            raise ValueError(f"an experience has {n} samples, fewer than a batch of {self.batch_size}")

    def __len__(self) -> int:
        return self.iterations or -(-len(self.columns[0]) // self.batch_size)

    def __iter__(self) -> Iterator[Columns]:
        for rows in self._epoch() if self.iterations is None else self._full_batches():
            batch = [column.index_select(0, rows) for column in self.columns]  # a seventh of indexing's time
            if self.encoding is not None and batch[0].dtype == torch.uint8:
                batch[0] = self.encoding.decode(batch[0])
            yield batch

    def _epoch(self) -> tuple[Tensor, ...]:
        n, device = len(self.columns[0]), self.columns[0].device
        order = torch.arange(n) if self.generator is None else torch.randperm(n, generator=self.generator)
        return order.to(device).split(self.batch_size)

    def _full_batches(self) -> Iterator[Tensor]:
        left = self.iterations
        while left:
            for rows in self._epoch()[: min(left, len(self.columns[0]) // self.batch_size)]:
                left -= 1
                yield rows


class InMemoryLoader(DataLoader):
    """A loader whose batches are slices of columns, in order."""

    def __init__(self, columns: Sequence[Tensor], batch_size: int) -> None:
        super().__init__(TensorDataset(*columns), batch_size=batch_size)

    def __iter__(self) -> Iterator[Columns]:
        columns = self.dataset.tensors
        for start in range(0, len(columns[0]), self.batch_size):
            yield [column[start : start + self.batch_size] for column in columns]
