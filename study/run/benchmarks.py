"""Names in a protocol -> Avalanche benchmarks, from images in memory."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from avalanche.benchmarks import CLScenario, benchmark_from_datasets, with_classes_timeline, with_task_labels
from avalanche.benchmarks.utils import ConstantSequence, DataAttribute, TaskAwareClassificationDataset, TaskLabels
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import Dataset

from study.protocol.settings import Benchmark, Scenario
from study.run.data import DataError, Encoding, Images, load_images


@dataclass(frozen=True, eq=False)
class Inputs(Dataset):
    """Inputs (N, channels, height, width) and labels (N,), with a permutation (height · width,) of the pixels."""

    inputs: Tensor
    labels: Tensor
    permutation: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, labels = self.rows([index])
        return inputs[0], labels[0]

    def rows(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Inputs and labels of some samples."""
        rows = torch.as_tensor(indices)
        inputs = self.inputs[rows]
        if self.permutation is not None:
            inputs = inputs.flatten(2).index_select(2, self.permutation).view_as(inputs)  # a third of indexing's time
        return inputs, self.labels[rows]


class InMemory(TaskAwareClassificationDataset):
    """:class:`Inputs` with targets and one task label, without transforms; a ``DataLoader`` reads a batch at once.

    Avalanche reads a sample at a time, which takes a fifth of a run of Permuted MNIST. Parts, concatenations, and
    copies with transforms or other attributes are still read so.
    """

    def __init__(self, data: Inputs, task: int) -> None:
        super().__init__([data], data_attributes=attributes(data.labels.tolist(), task))
        self._data, self._task = data, task

    def __getitems__(self, indices: Sequence[int]) -> list[list[Any]]:
        return [[x, y, self._task] for x, y in zip(*self._data.rows(indices), strict=True)]

    def batch(self, indices: Sequence[int]) -> list[Tensor]:
        """Inputs, targets and task labels of some samples, as the items put together."""
        inputs, labels = self._data.rows(indices)
        return [inputs, labels, torch.full_like(labels, self._task)]

    def with_transforms(self, group_name: str) -> Self:
        return self

    def subset(self, indices: Sequence[int]) -> TaskAwareClassificationDataset:
        return copy(self).subset(indices)

    def concat(self, other: TaskAwareClassificationDataset) -> TaskAwareClassificationDataset:
        return copy(self).concat(other)

    def __copy__(self) -> TaskAwareClassificationDataset:
        return TaskAwareClassificationDataset([self])


def build_benchmark(
    settings: Benchmark,
    scenario: Scenario,
    root: Path,
    generator: torch.Generator,
    evaluated_on: Literal["test", "validation"] = "test",
    validation_fraction: float | None = None,
) -> CLScenario:
    """The benchmark, whose test stream is the data to evaluate on.

    Args:
        settings: the protocol's.
        scenario: "task": task labels, classes from 0 in each experience; "domain": the same without task labels;
            "class": experiences have their own classes.
        root: folder of the data, see :func:`load_images`.
        generator: draws what differs between seeds: the order of classes, or permutations of pixels.
        evaluated_on: "test", or "validation": a stratified part of the training data takes the test data's place.
        validation_fraction: the share of that part, in (0, 1).

    Raises:
        DataError: the data is missing or damaged, or a class gets no sample in a part.
        ValueError: "validation" without its fraction, or a fraction without it.
    """
    if (evaluated_on == "validation") != (validation_fraction is not None):
        raise ValueError(
            f"evaluated_on = {evaluated_on!r} does not go with validation_fraction = {validation_fraction}"
        )
    train, held_out = load_images(settings.name, root)
    if settings.test_fraction is not None:
        train, held_out = _split(train, "benchmark.test_fraction", settings.test_fraction, settings.split_seed)
    if validation_fraction is not None:
        train, held_out = _split(train, "tuning.validation_fraction", validation_fraction, settings.split_seed)
    experiences = _permuted if settings.permuted else _by_class
    streams = []
    for stream in experiences(settings, (train, held_out), generator):
        n_classes = settings.classes if settings.permuted else settings.classes // settings.experiences
        offsets = [n_classes * index if scenario == "class" else 0 for index in range(len(stream))]
        data = [
            Inputs(each.inputs, each.labels + by, each.permutation) for each, by in zip(stream, offsets, strict=True)
        ]
        streams.append([InMemory(each, task_label(scenario, index)) for index, each in enumerate(data)])
    return benchmark_of(*streams)


def benchmark_of(train: Sequence[Any], test: Sequence[Any]) -> CLScenario:
    """The benchmark of two streams of datasets with task labels."""
    return with_classes_timeline(with_task_labels(benchmark_from_datasets(train=train, test=test)))


def task_label(scenario: Scenario, index: int) -> int:
    """Of all samples of experience ``index``."""
    return index if scenario == "task" else 0


def attributes(targets: list[int], task: int) -> list[DataAttribute]:
    """Of a dataset with these targets and one task label."""
    return [DataAttribute(targets, "targets"), TaskLabels(ConstantSequence(task, len(targets)))]


def _by_class(settings: Benchmark, streams: Sequence[Images], generator: torch.Generator) -> list[list[Inputs]]:
    """Each stream's experiences, split by class, with labels from 0."""
    order = torch.arange(settings.classes)
    if settings.class_order == "random":
        order = torch.randperm(settings.classes, generator=generator)
    position = order.argsort()  # of each class in that order
    share = settings.classes // settings.experiences

    def experience(images: Images, first: int) -> Inputs:
        labels = position[images.targets] - first
        rows = (labels >= 0) & (labels < share)
        return Inputs(_decode(settings, images.pixels[rows]), labels[rows])

    return [[experience(images, first) for first in range(0, settings.classes, share)] for images in streams]


def _permuted(settings: Benchmark, streams: Sequence[Images], generator: torch.Generator) -> list[list[Inputs]]:
    """Each stream's experiences: all of it under a permutation of its own; inputs are stored once."""
    decoded = [_decode(settings, images.pixels) for images in streams]
    n_pixels = decoded[0][0, 0].numel()
    permutations = [torch.randperm(n_pixels, generator=generator) for _ in range(settings.experiences)]
    return [
        [Inputs(inputs, images.targets, permutation) for permutation in permutations]
        for inputs, images in zip(decoded, streams, strict=True)
    ]


def _decode(settings: Benchmark, pixels: Tensor) -> Tensor:
    return Encoding.of(settings).decode(F.pad(pixels, [settings.padding] * 4))


def stratified_split(targets: Tensor, key: str, fraction: float, seed: int) -> list[Tensor]:
    """Indices of two stratified parts in the original order, the second with ``fraction`` of the samples.

    Args:
        targets: shape (N,).
        key: of ``fraction`` in a protocol, for errors.
        fraction: in (0, 1).
        seed: of the split.

    Raises:
        DataError: a class gets no sample in a part.
    """
    indices = torch.arange(len(targets)).numpy()
    classes, counts = targets.unique(return_counts=True)
    try:
        parts = train_test_split(indices, test_size=fraction, stratify=targets.numpy(), random_state=seed)
    except ValueError:  # fewer samples in a part than there are classes
        parts = []
    rows = [torch.from_numpy(part).sort().values for part in parts]
    if not rows or any(len(targets[part].unique()) < len(classes) for part in rows):
        fewest = int(counts.min())
        raise DataError(
            f"{key} = {fraction}: a class gets no sample in one of the two parts; the smallest class has {fewest}; "
            f"allowed: about {1 / fewest:.2g} to {1 - 1 / fewest:.4g}"
        )
    return rows


def _split(images: Images, key: str, fraction: float, seed: int) -> list[Images]:
    parts = stratified_split(images.targets, key, fraction, seed)
    return [Images(images.pixels[part], images.targets[part]) for part in parts]
