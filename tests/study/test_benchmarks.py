import pytest
import torch
from torch import Tensor

from study.benchmarks import build_benchmark
from study.protocol import Protocol, load_protocol


def samples(stream) -> tuple[Tensor, list[set[int]], list[set[int]]]:
    """All inputs of a stream, and for each experience its classes and task labels."""
    inputs, classes, tasks = [], [], []
    for experience in stream:
        x, y, t = zip(*experience.dataset, strict=True)
        inputs += x
        classes.append(set(map(int, y)))
        tasks.append(set(map(int, t)))
    return torch.stack(inputs), classes, tasks


@pytest.mark.parametrize(
    ("scenario", "classes", "tasks"),
    [
        ("task", [{0, 1}] * 5, [{0}, {1}, {2}, {3}, {4}]),
        ("domain", [{0, 1}] * 5, [{0}] * 5),
        ("class", [{0, 1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}], [{0}] * 5),
    ],
)
def test_what_a_scenario_tells_the_learner(scenario, classes, tasks):
    benchmark = build_benchmark(load_protocol("digits").benchmark, scenario)
    for stream in (benchmark.train_stream, benchmark.test_stream):
        assert samples(stream)[1:] == (classes, tasks)


def test_training_and_test_data_are_all_the_images_in_shares_of_each_class(protocol: Protocol):
    benchmark = build_benchmark(protocol.benchmark, "class")
    train, test = (samples(stream)[0] for stream in (benchmark.train_stream, benchmark.test_stream))
    assert len(train) + len(test) == 1797
    assert train.shape[1:] == (64,)
    assert train.min() == 0
    assert train.max() == 1
    for seen, unseen in zip(benchmark.train_stream, benchmark.test_stream, strict=True):
        share = len(unseen.dataset) / (len(seen.dataset) + len(unseen.dataset))
        assert share == pytest.approx(protocol.benchmark.test_fraction, abs=0.01)


def test_validation_data_is_training_data_and_test_data_stays_unseen(protocol: Protocol):
    def rows(stream) -> set[bytes]:
        return {x.numpy().tobytes() for x in samples(stream)[0]}

    ordinary = build_benchmark(protocol.benchmark, "class")
    tuning = build_benchmark(protocol.benchmark, "class", "validation", 0.2)
    assert not rows(tuning.train_stream) & rows(tuning.test_stream)
    assert rows(tuning.train_stream) | rows(tuning.test_stream) == rows(ordinary.train_stream)
    assert not rows(tuning.test_stream) & rows(ordinary.test_stream)
