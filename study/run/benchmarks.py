"""Names in a protocol -> Avalanche benchmarks, from images in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from avalanche.benchmarks import CLScenario, benchmark_from_datasets, with_classes_timeline, with_task_labels
from avalanche.benchmarks.utils import ConstantSequence, DataAttribute, TaskAwareClassificationDataset, TaskLabels
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import Dataset

from study.protocol.settings import CLASSES, Benchmark, Scenario
from study.run.data import DataError, Encoding, Images, load_images


class Inputs(Dataset):
    """Inputs and their labels, in memory.

    Args:
        inputs: shape (N, channels, height, width).
        labels: shape (N,).
        permutation: of the pixels, shape (height · width,), the same for each channel; None for none.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, permutation: Tensor | None = None) -> None:
        self.inputs = inputs
        self.labels = labels
        self.permutation = permutation

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.inputs[index]
        if self.permutation is not None:
            image = image.flatten(1)[:, self.permutation].view_as(image)
        return image, self.labels[index]


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
    parts = _permuted if settings.permuted else _by_class
    streams = zip(*parts(settings, (train, held_out), generator), strict=True)
    train_stream, test_stream = (
        [_in_scenario(scenario, index, *experience) for index, experience in enumerate(stream)] for stream in streams
    )
    return with_classes_timeline(with_task_labels(benchmark_from_datasets(train=train_stream, test=test_stream)))


# One experience of one stream: its data, with labels from 0, and how many classes it has.
Part = tuple[Inputs, int]


def _by_class(settings: Benchmark, streams: Sequence[Images], generator: torch.Generator) -> list[list[Part]]:
    """Split each stream into experiences by class."""
    n_classes = CLASSES[settings.name]
    order = torch.arange(n_classes)
    if settings.class_order == "random":
        order = torch.randperm(n_classes, generator=generator)
    position = order.argsort()  # of each class in that order
    share = n_classes // settings.experiences
    experiences = []
    for first in range(0, n_classes, share):
        parts = []
        for images in streams:
            labels = position[images.targets] - first
            rows = (labels >= 0) & (labels < share)
            parts.append((Inputs(_decode(settings, images.pixels[rows]), labels[rows]), share))
        experiences.append(parts)
    return experiences


def _permuted(settings: Benchmark, streams: Sequence[Images], generator: torch.Generator) -> list[list[Part]]:
    """Each experience is the whole stream under a permutation of its own; inputs are stored once."""
    decoded = [_decode(settings, images.pixels) for images in streams]
    n_pixels = decoded[0][0, 0].numel()
    experiences = []
    for _ in range(settings.experiences):
        permutation = torch.randperm(n_pixels, generator=generator)
        experiences.append(
            [
                (Inputs(inputs, images.targets, permutation), CLASSES[settings.name])
                for inputs, images in zip(decoded, streams, strict=True)
            ]
        )
    return experiences


def _in_scenario(scenario: Scenario, index: int, data: Inputs, n_classes: int) -> TaskAwareClassificationDataset:
    """An experience's data with the labels of the scenario."""
    if scenario == "class":
        data = Inputs(data.inputs, data.labels + index * n_classes, data.permutation)
    task = index if scenario == "task" else 0
    return TaskAwareClassificationDataset(
        [data],
        data_attributes=[
            DataAttribute(data.labels.tolist(), "targets"),
            TaskLabels(ConstantSequence(task, len(data))),
        ],
    )


def _decode(settings: Benchmark, pixels: Tensor) -> Tensor:
    return Encoding.of(settings).decode(F.pad(pixels, [settings.padding] * 4))


def stratified_split(targets: Tensor, key: str, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
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
    return rows[0], rows[1]


def _split(images: Images, key: str, fraction: float, seed: int) -> tuple[Images, Images]:
    return tuple(
        Images(images.pixels[part], images.targets[part])
        for part in stratified_split(images.targets, key, fraction, seed)
    )
