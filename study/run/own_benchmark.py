"""An Avalanche benchmark of the user's own, checked, and in the form that the study trains on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from avalanche.benchmarks import CLScenario
from avalanche.benchmarks.utils import TaskAwareClassificationDataset

from study.errors import ProtocolError
from study.protocol.own_code import build
from study.protocol.settings import OwnBenchmark, Scenario
from study.run.benchmarks import attributes, benchmark_of, stratified_split, task_label

SPLIT_SEED = 0  # of validation data, the same for every run
LOOKED_AT = 4  # samples that are read twice


def build_own_benchmark(
    settings: OwnBenchmark, scenario: Scenario, seed: int, root: Path, folder: Path, validation_fraction: float | None
) -> CLScenario:
    """The benchmark that a function of the user's own returns; its test stream is the data to evaluate on.

    Args:
        settings: of the protocol.
        scenario: "task" adds task labels, one per experience, where the data has none.
        seed, root, folder: of the run, of the data, and of the protocol file.
        validation_fraction: share of each experience's training data, stratified by class, that takes the place of
            its test data; None for the test data.

    Raises:
        ProtocolError: the function fails, or what it returns cannot be trained on.
    """
    key = f"benchmark.kind = {settings.kind!r}"
    offered = {"seed": seed, "scenario": scenario, "data_root": root}
    found = build(settings, "benchmark", folder, offered)
    try:
        streams = [[each.dataset for each in getattr(found, f"{name}_stream")] for name in ("train", "test")]
        targets = [[list(map(int, dataset.targets)) for dataset in stream] for stream in streams]
    except (AttributeError, TypeError, ValueError) as error:
        raise ProtocolError(
            f"{key}: {error}; allowed: a benchmark as from avalanche.benchmarks.benchmark_from_datasets(train=..., "
            "test=...), of datasets with integer targets"
        ) from error
    if validation_fraction is not None:
        key_and_fraction = "tuning.validation_fraction", validation_fraction
        parts = [stratified_split(torch.tensor(labels), *key_and_fraction, SPLIT_SEED) for labels in targets[0]]
        rows = [[part.tolist() for part in stream] for stream in zip(*parts, strict=True)]
        streams = [[d.subset(part) for d, part in zip(streams[0], stream, strict=True)] for stream in rows]
        targets = [[[y[i] for i in part] for y, part in zip(targets[0], stream, strict=True)] for stream in rows]
    _check(key, scenario, streams, targets)
    with_tasks = (
        [
            data if hasattr(data, "targets_task_labels") else _labelled(data, labels[index], scenario, index)
            for index, data in enumerate(stream)
        ]
        for stream, labels in zip(streams, targets, strict=True)
    )
    return benchmark_of(*with_tasks)


def _labelled(data: Any, targets: list[int], scenario: Scenario, index: int) -> TaskAwareClassificationDataset:
    labels = attributes(targets, task_label(scenario, index))
    return TaskAwareClassificationDataset([data], data_attributes=labels)


def _check(key: str, scenario: Scenario, streams: Sequence[Sequence[Any]], targets: list[list[list[int]]]) -> None:
    sizes = [len(stream) for stream in streams]
    if sizes[0] != sizes[1] or sizes[0] < 2:
        raise ProtocolError(f"{key}: experiences to train and to test on: {sizes}; allowed: as many, at least 2")
    if not all(labels for stream in targets for labels in stream):
        raise ProtocolError(f"{key}: an experience has no samples; allowed: at least 1")
    trained, tested = (set().union(*stream) for stream in targets)
    if trained != set(range(len(trained))) or not tested <= trained:
        raise ProtocolError(f"{key}: targets are {sorted(trained | tested)}; allowed: 0, 1, 2, … without gaps")
    for index, dataset in (pair for stream in streams for pair in enumerate(stream)):
        expected = task_label(scenario, index)
        tasks = set(getattr(dataset, "targets_task_labels", [expected]))
        if tasks != {expected}:
            problem = f"experience {index} has the task labels {sorted(tasks)}"
            raise ProtocolError(f"{key}: {problem}; allowed in the scenario {scenario!r}: {expected}, or none")
    for i in range(min(LOOKED_AT, len(streams[0][0]))):
        once, again = streams[0][0][i][0], streams[0][0][i][0]
        if not isinstance(once, torch.Tensor) or once.dtype != torch.float32:
            raise ProtocolError(f"{key}: an input is {getattr(once, 'dtype', type(once))}; allowed: float32 tensors")
        if not torch.equal(once, again):
            problem = "a sample differs each time it is read, as with random augmentation"
            raise ProtocolError(f"{key}: {problem}; allowed: fixed samples, since each is read once")
