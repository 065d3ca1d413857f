"""Whole runs of the study, and the loop in bare PyTorch that they are timed beside."""

import pytest
import torch

from study.bench.whole import A_MINUTE, BARE, OVER_BARE, PROTOCOL, bare_run, measure_whole_runs
from study.protocol.load import load_protocol
from study.records.store import RunStore
from study.run.checkpoint import Checkpoint
from study.run.data import Images, kept_images, load_images


@pytest.fixture
def ten_each(tmp_path):
    """Images of ten of each digit, which show it by where they are bright."""
    targets = torch.arange(10).repeat(10)
    pixels = torch.zeros(100, 1, 28, 28, dtype=torch.uint8)
    pixels[torch.arange(100), 0, targets, :] = 255
    images = Images(pixels, targets)
    kept_images("split_mnist", tmp_path.resolve()).append((images, images))
    yield tmp_path
    kept_images.cache_clear()


def test_the_bare_loop_learns_every_task(ten_each):
    training = load_protocol(PROTOCOL).training.model_copy(update={"iterations": 20, "batch_size": 8})
    matrix = bare_run(*load_images("split_mnist", ten_each), training)
    assert len(matrix) == len(matrix[0]) == 5
    assert [row[task] for task, row in enumerate(matrix)] == [1.0] * 5, matrix


def test_whole_runs_are_timed_from_the_benchmark_to_the_record_in_its_file(ten_each, monkeypatch):
    written, checkpoints = [], []
    monkeypatch.setattr(RunStore, "write", lambda store, record: written.append(record))
    monkeypatch.setattr(Checkpoint, "save", lambda *_: checkpoints.append(1))
    monkeypatch.setattr("study.bench.whole.load_protocol", lambda name, changes: small(load_protocol(name, changes)))
    found = list(measure_whole_runs(ten_each, rounds=1, iterations=3))
    assert all(record.finished for record in written)
    assert len(written) == 2
    assert len(checkpoints) == 2 * 4, "one after each experience but the last"
    rates = {each.mode: each for each in found if each.quantity == A_MINUTE}
    assert set(rates) == {"none", "ewc-2018", BARE}
    ratios = {each.mode: each for each in found if each.quantity == OVER_BARE}
    assert set(ratios) == {"none", "ewc-2018"}
    for mode, each in ratios.items():
        assert each.values == pytest.approx(
            [b / m for b, m in zip(rates[BARE].values, rates[mode].values, strict=True)]
        )


def small(protocol):
    return protocol.model_copy(update={"training": protocol.training.model_copy(update={"batch_size": 8})})
