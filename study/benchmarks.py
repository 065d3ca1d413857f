"""Names in a protocol -> Avalanche benchmarks."""

from typing import Literal

import torch
from avalanche.benchmarks import NCScenario, nc_benchmark
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import TensorDataset

from study.protocol import Benchmark, Scenario


def build_benchmark(
    settings: Benchmark,
    scenario: Scenario,
    evaluated_on: Literal["test", "validation"] = "test",
    validation_fraction: float | None = None,
) -> NCScenario:
    """The benchmark with its train stream, and as its test stream the data to evaluate on.

    Args:
        settings: the protocol's.
        scenario: "task" has a task label and classes from 0 for each experience; "domain" has classes from 0
            for each experience and no task labels (all 0); "class" keeps the classes apart.
        evaluated_on: "test", or "validation": then the test data is put away unseen, and a stratified part of
            the training data takes its place.
        validation_fraction: the share of that part, in (0, 1).
    """
    inputs, targets = _digits()
    train, held_out = _split(torch.arange(len(targets)), targets, settings.test_fraction, settings.split_seed)
    if evaluated_on == "validation":
        train, held_out = _split(train, targets, validation_fraction, settings.split_seed)
    return nc_benchmark(
        _dataset(inputs[train], targets[train]),
        _dataset(inputs[held_out], targets[held_out]),
        n_experiences=settings.experiences,
        task_labels=scenario == "task",
        shuffle=False,
        class_ids_from_zero_in_each_exp=scenario != "class",
    )


def _digits() -> tuple[Tensor, Tensor]:
    """Inputs of shape (1797, 64) in [0, 1] and targets of shape (1797,)."""
    digits = load_digits()
    return torch.from_numpy(digits.data / 16).float(), torch.from_numpy(digits.target).long()


def _split(indices: Tensor, targets: Tensor, fraction: float | None, seed: int) -> tuple[Tensor, Tensor]:
    """Indices in two stratified parts, the second with ``fraction`` of them; each sorted."""
    rest, part = train_test_split(
        indices.numpy(), test_size=fraction, stratify=targets[indices].numpy(), random_state=seed
    )
    return torch.from_numpy(rest).sort().values, torch.from_numpy(part).sort().values


def _dataset(inputs: Tensor, targets: Tensor) -> TensorDataset:
    dataset = TensorDataset(inputs, targets)
    dataset.targets = targets.tolist()  # where Avalanche looks for the classes
    return dataset
