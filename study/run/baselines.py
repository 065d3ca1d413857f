"""Rehearsal: a memory of raw examples, counted in bytes."""

from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor

from study.protocol.settings import Replay
from study.run.batches import Columns, InMemoryBatches
from study.run.data import Encoding


class ReplayMemory(SupervisedPlugin, supports_distributed=False):
    """Mixes stored examples of past experiences into the data of the current one.

    The memory holds equally many random examples of each past experience; shares shrink as experiences are added. In
    training the memory is repeated as often as it fits into the current data, at least once, and shuffled with it, so
    that about half of the examples are old (Hsu et al. 2018, "naive rehearsal").

    Args:
        settings: size, and how a pixel is stored.
        batches: the plugin that feeds the strategy; it must come before this one.
        encoding: between inputs and bytes.
        copy_bytes: bytes of one float32 copy of the model's parameters.
        seed: of the draws.
    """

    def __init__(
        self, settings: Replay, batches: InMemoryBatches, encoding: Encoding, copy_bytes: int, seed: int
    ) -> None:
        super().__init__()
        self.settings, self.batches, self.encoding, self.copy_bytes = settings, batches, encoding, copy_bytes
        self._generator = torch.Generator().manual_seed(seed)
        self._new: Columns = []
        self.stored: list[Columns] = []  # of each past experience
        self.capacity: int | None = None  # in examples

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Add the memory to the data.

        Raises:
            ValueError: the memory cannot hold an example of each experience, or holds all that it could replay.
        """
        self._new = self.batches.columns
        if self.capacity is None:
            sizes = [len(experience.dataset) for experience in strategy.experience.origin_stream]
            self.capacity = self._capacity(self._new[0][0].numel(), sizes)
        if self.stored:
            past = [torch.cat(parts) for parts in zip(*self.stored, strict=True)]
            past[0] = self._as(self._new[0].dtype, past[0])
            times = max(1, len(self._new[0]) // len(past[0]))
            self.batches.columns = [torch.cat([new, *[old] * times]) for new, old in zip(self._new, past, strict=True)]
            self.batches.before_training_exp(strategy)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Store examples of this experience and make room for them."""
        share = self.capacity // (len(self.stored) + 1)
        chosen = [self._draw(columns, share) for columns in [*self.stored, self._new]]
        chosen[-1][0] = self._as(getattr(torch, self.settings.storage), chosen[-1][0])
        self.stored = chosen
        self._new = []

    def _draw(self, columns: Columns, share: int) -> Columns:
        rows = torch.randperm(len(columns[0]), generator=self._generator)[:share]
        return [column[rows.to(column.device)] for column in columns]

    def _capacity(self, pixels: int, sizes: list[int]) -> int:
        """How many examples fit, by the bytes of their pixels; ``sizes`` are the experiences' numbers of examples."""
        example = pixels * getattr(torch, self.settings.storage).itemsize
        unit = {"examples": example, "memory_bytes": 1, "copies": self.copy_bytes}
        ((name, number),) = self.settings.model_dump(include=set(unit), exclude_none=True).items()
        key, capacity = f"{name} = {number}", number * unit[name] // example
        if capacity < len(sizes):
            raise ValueError(
                f"{key}: a memory of {capacity} examples is too small for {len(sizes)} experiences; allowed: at "
                "least one example of each"
            )
        past = sizes[:-1]  # nothing comes after the last
        if past and capacity // len(past) >= max(past):
            raise ValueError(
                f"{key}: a memory of {capacity} examples holds all {sum(past)} of the past; allowed: fewer than "
                f"{len(past) * max(past)}, or kind = 'cumulative', which keeps everything"
            )
        return capacity

    def _as(self, dtype: torch.dtype, inputs: Tensor) -> Tensor:
        """Inputs as bytes, or as the model takes them."""
        if inputs.dtype == dtype:
            return inputs
        return self.encoding.encode(inputs) if dtype == torch.uint8 else self.encoding.decode(inputs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_new": []}
