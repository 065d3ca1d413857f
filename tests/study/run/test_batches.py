"""Batches from memory are those of Avalanche's own loader, to the last bit, and the learner's weights with them."""

import pickle
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Cumulative, JointTraining
from torch.utils.data import RandomSampler, TensorDataset

from study.protocol.load import load_protocol, protocol_names
from study.protocol.settings import SCENARIOS, Benchmark
from study.run.batches import ROWS_AT_A_TIME, Batches, InMemoryBatches, columns_of
from study.run.benchmarks import build_benchmark
from study.run.data import Encoding
from tests.study.images import write_mnist
from tests.study.recording import Recorder, learner, same, train_on

SEED = 5
CPU = torch.device("cpu")


def settings_of(name: str) -> Benchmark:
    return Benchmark(name=name, experiences=2, test_fraction=0.25 if name == "split_digits" else None)


@pytest.fixture
def benchmark_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two experiences: of digits, whose classes differ in size; or of MNIST's images, permuted or not."""
    write_mnist(tmp_path, monkeypatch)

    def build(scenario: str, name: str = "split_digits") -> Any:
        return build_benchmark(settings_of(name), scenario, tmp_path, torch.Generator().manual_seed(0))

    return build


@pytest.fixture
def avalanches_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PyTorch's sampler, which Avalanche's loader shuffles with, draw its order as ours does."""
    generator = torch.Generator().manual_seed(SEED)

    def order(self: RandomSampler) -> Any:
        return iter(torch.randperm(len(self.data_source), generator=generator).tolist())

    monkeypatch.setattr(RandomSampler, "__iter__", order)


def trained(benchmark: Any, scenario: str, plugins: list[Any], epochs: int, **options: Any) -> tuple[Any, Recorder]:
    recorder = Recorder()
    strategy = learner(benchmark, scenario, [*plugins, recorder], epochs=epochs)
    strategy.evaluator = EvaluationPlugin(accuracy_metrics(experience=True))
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[], **options)
        strategy.accuracy = strategy.eval(benchmark.test_stream)
    return strategy, recorder


def assert_same_training(ours: tuple[Any, Recorder], theirs: tuple[Any, Recorder]) -> None:
    assert same(ours[1].training, theirs[1].training)
    assert same(ours[1].evaluation, theirs[1].evaluation)
    weights = [dict(strategy.model.state_dict()) for strategy, _ in (ours, theirs)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert ours[0].accuracy == theirs[0].accuracy


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("name", ["split_digits", "permuted_mnist"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_training_and_evaluation_are_those_with_avalanches_own_loader(
    scenario, name, as_bytes, benchmark_of, avalanches_order
):
    benchmark = benchmark_of(scenario, name)
    encoding = Encoding.of(settings_of(name)) if as_bytes else None
    theirs = trained(benchmark, scenario, [], epochs=2)
    ours = trained(benchmark, scenario, [InMemoryBatches(SEED, encoding=encoding)], epochs=2)
    assert_same_training(ours, theirs)
    batches = ours[1].training[0]
    n = len(benchmark.train_stream[0].dataset)
    assert len(batches) == 2 * -(-n // 8)
    assert len(batches[-1][0]) == (n % 8 or 8)
    tasks = [set(torch.cat([batch[2] for batch in experience]).tolist()) for experience in ours[1].training]
    assert tasks == ([{0}, {1}] if scenario == "task" else [{0}, {0}])


def test_iterations_are_epochs_of_full_batches_only(benchmark_of, avalanches_order):
    benchmark = benchmark_of("task", "split_mnist")  # 60 images an experience
    theirs = trained(benchmark, "task", [], epochs=3, drop_last=True)
    ours = trained(benchmark, "task", [InMemoryBatches(SEED, iterations=3 * (60 // 8))], epochs=1)
    assert_same_training(ours, theirs)
    assert {len(batch[0]) for batch in ours[1].training[1]} == {8}


def test_training_on_all_data_so_far_has_all_of_it_shuffled_together(benchmark_of):
    benchmark = benchmark_of("task", "split_mnist")
    recorder = Recorder()
    strategy = learner(benchmark, "task", [InMemoryBatches(SEED), recorder], kind=Cumulative)
    train_on(strategy, benchmark.train_stream)
    first, second = ([torch.cat(column) for column in zip(*batches, strict=True)] for batches in recorder.training)
    assert (len(first[0]), len(second[0])) == (60, 120)
    expected = [columns_of(experience.dataset, CPU) for experience in benchmark.train_stream]
    order = torch.Generator().manual_seed(SEED)
    assert torch.equal(first[0], expected[0][0][torch.randperm(60, generator=order)])
    both = [torch.cat(column) for column in zip(*expected, strict=True)]
    rows = torch.randperm(120, generator=order)
    assert all(torch.equal(column, union[rows]) for column, union in zip(second, both, strict=True))
    assert {0, 1} == {int(t) for batch in recorder.training[1] for t in batch[2]}


def test_nothing_but_the_seed_decides_the_order(benchmark_of):
    benchmark = benchmark_of("class")

    def order(seed: int, drawn_before: int) -> Any:
        recorder = Recorder()
        strategy = learner(benchmark, "class", [InMemoryBatches(seed), recorder])
        torch.rand(drawn_before)
        strategy.train(benchmark.train_stream[0], eval_streams=[])
        return recorder.training

    assert same(order(0, 0), order(0, 7))
    assert not same(order(0, 0), order(1, 0))


def test_a_pickled_plugin_goes_on_identically_and_carries_no_data(benchmark_of):
    benchmark = benchmark_of("class")
    recorders = Recorder(), Recorder()
    batches = InMemoryBatches(SEED)
    strategy = learner(benchmark, "class", [batches, recorders[0]])
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    strategy.eval(benchmark.test_stream)
    pickled = pickle.dumps(batches)
    assert len(pickled) < 10_000, f"{len(pickled)} bytes"
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    resumed = learner(benchmark, "class", [pickle.loads(pickled), recorders[1]])
    resumed.train(benchmark.train_stream[1], eval_streams=[])
    assert same(recorders[0].training[1:], recorders[1].training)


def test_evaluation_reads_each_experience_once_and_keeps_it(benchmark_of, monkeypatch):
    benchmark = benchmark_of("class")
    strategy = learner(benchmark, "class", [InMemoryBatches(SEED), recorder := Recorder()])
    strategy.eval(benchmark.test_stream)
    monkeypatch.setattr("study.run.batches.columns_of", None)
    strategy.eval(benchmark.test_stream)
    assert same(recorder.evaluation[:2], recorder.evaluation[2:])
    assert not same(recorder.evaluation[:1], recorder.evaluation[1:2])


def test_train_and_test_streams_are_not_mixed_up_in_evaluation(benchmark_of):
    benchmark = benchmark_of("class")
    strategy = learner(benchmark, "class", [InMemoryBatches(SEED), recorder := Recorder()])
    strategy.eval(benchmark.test_stream)
    strategy.eval(benchmark.train_stream)
    sizes = [sum(len(batch[0]) for batch in batches) for batches in recorder.evaluation]
    assert sizes == [len(e.dataset) for e in [*benchmark.test_stream, *benchmark.train_stream]]


# ------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize("n", [1, ROWS_AT_A_TIME - 1, ROWS_AT_A_TIME, 2 * ROWS_AT_A_TIME + 1])
def test_columns_are_all_samples_in_their_order_and_types(n):
    inputs, targets = torch.rand(n, 2, 3), torch.arange(n)
    columns = columns_of(TensorDataset(inputs, targets, targets.to(torch.uint8)), CPU)
    assert all(torch.equal(a, b) for a, b in zip(columns, (inputs, targets, targets.to(torch.uint8)), strict=True))
    assert [column.dtype for column in columns] == [torch.float32, torch.int64, torch.uint8]


@pytest.mark.parametrize("name", protocol_names())
def test_inputs_of_every_protocol_are_the_same_to_the_last_bit_when_kept_as_bytes(name):
    settings = load_protocol(name).benchmark
    encoding = Encoding.of(settings)
    channels = 3 if "cifar" in settings.name else 1
    pixels = torch.randint(encoding.levels + 1, (300, channels, 8, 8)).to(torch.uint8)
    dataset = TensorDataset(encoding.decode(pixels), torch.arange(300))
    assert encoding.is_exact()
    columns = columns_of(dataset, CPU, encoding)
    assert torch.equal(columns[0], pixels)
    (inputs, rows), *_ = Batches(columns, 128, torch.Generator().manual_seed(0), encoding=encoding)
    assert torch.equal(inputs, dataset.tensors[0][rows])
    assert inputs.dtype == torch.float32


def test_inputs_that_bytes_would_not_give_back_are_kept_as_they_are(benchmark_of):
    coarse = Encoding(255, torch.full((1, 1, 1), 1e9), torch.ones(1, 1, 1))
    assert not coarse.is_exact()
    benchmark = benchmark_of("class", "split_mnist")
    recorders = Recorder(), Recorder()
    for recorder, encoding in zip(recorders, (None, coarse), strict=True):
        strategy = learner(benchmark, "class", [InMemoryBatches(SEED, encoding=encoding), recorder])
        strategy.train(benchmark.train_stream[0], eval_streams=[])
    assert same(recorders[0].training, recorders[1].training)


def test_an_experience_without_samples_is_an_error():
    with pytest.raises(ValueError, match="no samples"):
        columns_of([], CPU)


def test_an_experience_smaller_than_a_batch_is_an_error_where_only_full_batches_count():
    with pytest.raises(ValueError, match="has 3 samples, fewer than a batch of 4"):
        Batches([torch.arange(3)], 4, torch.Generator(), iterations=1)
    assert [len(rows) for (rows,) in Batches([torch.arange(3)], 4)] == [3]


def test_a_later_experience_smaller_than_a_batch_is_an_error_before_the_first_step(benchmark_of):
    benchmark = benchmark_of("class")  # of digits
    sizes = [len(experience.dataset) for experience in benchmark.train_stream]
    assert sizes[1] < sizes[0]
    recorder = Recorder()
    strategy = learner(benchmark, "class", [InMemoryBatches(0, iterations=1), recorder], batch_size=sizes[0])
    with pytest.raises(ValueError, match=rf"training\.batch_size = {sizes[0]}: experience 1 has {sizes[1]} samples"):
        strategy.train(benchmark.train_stream[0], eval_streams=[])
    assert recorder.training == []


@pytest.mark.parametrize("kind", [Cumulative, JointTraining])
def test_a_batch_may_be_as_large_as_what_is_trained_on_together(benchmark_of, kind):
    benchmark = benchmark_of("class")
    sizes = [len(experience.dataset) for experience in benchmark.train_stream]
    size = sum(sizes) if kind is JointTraining else sizes[0]
    strategy = learner(benchmark, "class", [InMemoryBatches(0, iterations=1)], batch_size=size, kind=kind)
    strategy.train(benchmark.train_stream, eval_streams=[])


@pytest.mark.parametrize(("iterations", "n"), [(1, 10), (2, 10), (5, 10), (7, 8), (6, 4)])
def test_so_many_batches_as_iterations_and_no_row_twice_before_a_reshuffle(iterations, n):
    batches = Batches([torch.arange(n)], 4, torch.Generator().manual_seed(0), iterations)
    drawn = [rows.tolist() for (rows,) in batches]
    assert len(drawn) == len(batches) == iterations
    assert {len(rows) for rows in drawn} == {4}
    for start in range(0, iterations, n // 4):
        epoch = list(chain(*drawn[start : start + n // 4]))
        assert len(set(epoch)) == len(epoch)
    if iterations > n // 4:
        assert drawn[0] != drawn[n // 4]


def test_every_epoch_has_every_row_once_in_another_order_and_the_last_batch_has_what_is_left():
    batches = Batches([torch.arange(10), torch.arange(10) * 2], 4, torch.Generator().manual_seed(0))
    epochs = [list(batches) for _ in range(2)]
    assert len(batches) == 3
    for epoch in epochs:
        assert [len(rows) for rows, _ in epoch] == [4, 4, 2]
        assert all(torch.equal(rows * 2, doubled) for rows, doubled in epoch)
        assert sorted(int(row) for rows, _ in epoch for row in rows) == list(range(10))
    assert [rows.tolist() for rows, _ in epochs[0]] != [rows.tolist() for rows, _ in epochs[1]]
