"""Rehearsal: a memory of raw examples, counted in bytes."""

from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor

from study.batches import Columns, InMemoryBatches
from study.data import Encoding
from study.settings import Replay


class ReplayMemory(SupervisedPlugin, supports_distributed=False):
    """Mixes stored examples of past experiences into the data of the current one.

    The memory holds as many examples of each past experience, drawn at random from its data; with every experience
    the shares shrink, and what is dropped is drawn at random too. In training the memory is repeated as often as it
    fits into the current data, at least once, and both are shuffled together, so that about every second example is
    an old one as soon as there are any (Hsu et al. 2018, "naive rehearsal").

    Args:
        settings: how large, and how a pixel is stored.
        batches: the plugin that feeds the strategy; it must stand before this one.
        encoding: between a model's inputs and bytes.
        copy_bytes: bytes of one float32 copy of the model's parameters.
        seed: of the draws.
    """

    def __init__(
        self, settings: Replay, batches: InMemoryBatches, encoding: Encoding, copy_bytes: int, seed: int
    ) -> None:
        super().__init__()
        self.settings = settings
        self.batches = batches
        self.encoding = encoding
        self.copy_bytes = copy_bytes
        self._generator = torch.Generator().manual_seed(seed)
        self._new: Columns = []
        self.stored: list[Columns] = []  # of each past experience
        self.capacity: int | None = None  # in examples

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Add the memory to the data, and hand the sum to the strategy."""
        self._new = self.batches.columns
        if self.stored:
            past = [torch.cat(parts) for parts in zip(*self.stored, strict=True)]
            past[0] = self._decode(past[0])
            times = max(1, len(self._new[0]) // len(past[0]))
            self.batches.columns = [torch.cat([new, *[old] * times]) for new, old in zip(self._new, past, strict=True)]
            self.batches.before_training_exp(strategy)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Store examples of the experience that ends, and make room for them."""
        inputs, targets, tasks = self._new
        if self.capacity is None:
            self.capacity = self._examples(inputs[0])
        share = self.capacity // (len(self.stored) + 1)
        if share == 0:
            raise ValueError(
                f"a memory of {self.capacity} examples is too small for {len(self.stored) + 1} experiences"
            )
        chosen = [self._draw(columns, share) for columns in [*self.stored, [inputs, targets, tasks]]]
        chosen[-1][0] = self._encode(chosen[-1][0])
        self.stored = chosen
        self._new = []

    def _draw(self, columns: Columns, share: int) -> Columns:
        rows = torch.randperm(len(columns[0]), generator=self._generator)[:share]
        return [column[rows.to(column.device)] for column in columns]

    def _examples(self, image: Tensor) -> int:
        """How many examples fit, by the bytes of their pixels."""
        size = self.settings
        if size.examples is not None:
            return size.examples
        memory = size.memory_bytes if size.memory_bytes is not None else size.copies * self.copy_bytes
        return memory // (image.numel() * (1 if size.storage == "uint8" else torch.float32.itemsize))

    def _encode(self, inputs: Tensor) -> Tensor:
        return self.encoding.encode(inputs) if self.settings.storage == "uint8" else inputs

    def _decode(self, stored: Tensor) -> Tensor:
        return self.encoding.decode(stored) if self.settings.storage == "uint8" else stored

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_new": []}
