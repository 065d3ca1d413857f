"""Rehearsal: what the memory holds, in which bytes, and what the learner sees of it."""

import pickle
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from study.protocol.load import load_protocol
from study.protocol.settings import SCENARIOS, Benchmark, Replay
from study.run.baselines import ReplayMemory
from study.run.batches import InMemoryBatches, columns_of
from study.run.benchmarks import build_benchmark
from study.run.data import Encoding
from study.run.models import build_model, parameter_bytes
from tests.study.images import write_cifar, write_mnist
from tests.study.recording import Batch, Recorder, learner, same, train_on

SETTINGS = Benchmark(name="split_digits", experiences=5, test_fraction=0.25)
CPU = torch.device("cpu")
COPY_BYTES = 10_000


def benchmark_of(scenario: str, settings: Benchmark = SETTINGS, root: Path = Path()) -> Any:
    return build_benchmark(settings, scenario, root, torch.Generator().manual_seed(0))


def replaying(
    benchmark: Any, scenario: str, size: Replay, settings: Benchmark = SETTINGS, *, seed: int = 3, **options: Any
) -> tuple[Any, ReplayMemory, Recorder]:
    batches, recorder = InMemoryBatches(1, options.pop("iterations", None)), Recorder()
    memory = ReplayMemory(size, batches, Encoding.of(settings), COPY_BYTES, seed)
    return learner(benchmark, scenario, [batches, memory, recorder], **options), memory, recorder


def keys(columns: Any) -> list[tuple[bytes, int, int]]:
    """Each example with its label and task label, as something that can be counted."""
    return [(x.numpy().tobytes(), int(y), int(t)) for x, y, t in zip(*columns, strict=True)]


def seen(batches: list[Batch]) -> Counter[tuple[bytes, int, int]]:
    return Counter(key for batch in batches for key in keys(batch))


def data(benchmark: Any) -> list[set[tuple[bytes, int, int]]]:
    return [set(keys(columns_of(experience.dataset, CPU))) for experience in benchmark.train_stream]


# ------------------------------------------------------------------------------- what it holds


@pytest.mark.parametrize("storage", ["float32", "uint8"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_memory_holds_an_equal_number_of_each_past_experience_with_its_labels(scenario, storage):
    benchmark = benchmark_of(scenario)
    strategy, memory, _ = replaying(benchmark, scenario, Replay(kind="replay", examples=31, storage=storage))
    of_experience = data(benchmark)
    for index, experience in enumerate(benchmark.train_stream):
        strategy.train(experience, eval_streams=[])
        assert memory.capacity == 31
        assert [len(columns[0]) for columns in memory.stored] == [31 // (index + 1)] * (index + 1)
        for past, (inputs, *labels) in enumerate(memory.stored):
            assert inputs.dtype == getattr(torch, storage)
            if storage == "uint8":
                inputs = Encoding.of(SETTINGS).decode(inputs)
            assert len(set(keys([inputs, *labels]))) == len(inputs), "an example is stored twice"
            assert set(keys([inputs, *labels])) <= of_experience[past]


def test_what_is_dropped_is_drawn_at_random_and_what_is_kept_was_there():
    benchmark = benchmark_of("class")
    strategy, memory, _ = replaying(benchmark, "class", Replay(kind="replay", examples=60))
    kept = []
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
        kept.append(keys(memory.stored[0]))
    for before, after in pairwise(kept):
        assert set(after) < set(before)
        assert after != before[: len(after)], "the first ones were kept"
    first = keys(columns_of(benchmark.train_stream[0].dataset, CPU))
    assert kept[0] != first[:60], "the first ones were stored"


def test_an_experience_smaller_than_its_share_is_stored_whole():
    benchmark = benchmark_of("class")
    strategy, memory, _ = replaying(benchmark, "class", Replay(kind="replay", examples=800))
    train_on(strategy, benchmark.train_stream[:2])
    assert [set(keys(columns)) for columns in memory.stored] == data(benchmark)[:2]


def test_a_memory_that_holds_the_whole_past_is_an_error_before_the_first_step_and_the_largest_allowed_drops_something():
    benchmark = benchmark_of("class")
    sizes = [len(examples) for examples in data(benchmark)]
    whole = 4 * max(sizes[:4])  # shares are equal
    for size, key in ({"examples": whole}, "examples"), ({"memory_bytes": 256 * whole}, "memory_bytes"):
        strategy, _, recorder = replaying(benchmark, "class", Replay(kind="replay", **size))
        said = (
            rf"{key} = \d+: a memory of {whole} examples holds all {sum(sizes[:4])} .* fewer than {whole}, or kind = "
        )
        with pytest.raises(ValueError, match=said):
            strategy.train(benchmark.train_stream[0], eval_streams=[])
        assert recorder.training == []
    strategy, memory, _ = replaying(benchmark, "class", Replay(kind="replay", examples=whole - 1))
    train_on(strategy, benchmark.train_stream[:4])
    assert sum(len(columns[0]) for columns in memory.stored) < sum(sizes[:4])


@pytest.mark.parametrize(
    ("size", "examples"),
    [
        ({"examples": 7}, 7),
        ({"memory_bytes": 64 * 4 * 5 + 255}, 5),
        ({"memory_bytes": 64 * 5 + 63, "storage": "uint8"}, 5),
        ({"copies": 2}, 2 * COPY_BYTES // (64 * 4)),
        ({"copies": 2, "storage": "uint8"}, 2 * COPY_BYTES // 64),
    ],
)
def test_the_size_is_a_number_of_examples_or_of_the_bytes_of_their_pixels(size, examples):
    benchmark = benchmark_of("class")
    strategy, memory, _ = replaying(benchmark, "class", Replay(kind="replay", **size))
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    assert memory.capacity == examples
    pixels = memory.stored[0][0]
    if "examples" not in size:
        allowed = size.get("memory_bytes", size.get("copies", 0) * COPY_BYTES)
        assert pixels.nbytes <= allowed < pixels.nbytes + pixels[0].nbytes or len(pixels) < examples


def test_two_copies_of_hsus_network_are_the_memory_that_hsu_gives_to_rehearsal(tmp_path, monkeypatch):
    """574,410 parameters x 2 x 4 bytes: about the 1100 images as float32, or the 4400 as uint8, of Hsu et al. 2018."""
    write_mnist(tmp_path, monkeypatch, per_class=600)
    protocol = load_protocol("hsu2018-split-mnist-task")
    benchmark = benchmark_of("task", protocol.benchmark, tmp_path)
    model = build_model(protocol.model, "task", benchmark)
    assert parameter_bytes(model) == 574_410 * 4
    capacities = []
    for storage in ("float32", "uint8"):
        size = Replay(kind="replay", copies=2, storage=storage)
        memory = ReplayMemory(size, InMemoryBatches(0), Encoding.of(protocol.benchmark), parameter_bytes(model), 0)
        strategy = learner(benchmark, "task", [memory.batches, memory])
        strategy.train(benchmark.train_stream[0], eval_streams=[])
        capacities.append(memory.capacity)
    assert capacities == [1121, 4487]
    published = [protocol.methods[name].examples for name in ("naive-rehearsal", "naive-rehearsal-c")]
    assert published == [1100, 4400]


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ({"examples": 4}, "examples = 4: a memory of 4 examples is too small for 5 experiences"),
        ({"memory_bytes": 1279}, "memory_bytes = 1279: a memory of 4 examples is too small for 5 experiences"),
        ({"memory_bytes": 64, "storage": "uint8"}, "memory_bytes = 64: a memory of 1 examples is too small"),
    ],
)
def test_a_memory_too_small_for_an_example_of_each_experience_is_an_error_before_the_first_step(size, said):
    benchmark = benchmark_of("class")
    strategy, _, recorder = replaying(benchmark, "class", Replay(kind="replay", **size))
    with pytest.raises(ValueError, match=said):
        strategy.train(benchmark.train_stream[0], eval_streams=[])
    assert recorder.training == []


def test_two_copies_of_a_tiny_network_that_hold_no_example_of_each_experience_are_an_error():
    benchmark = benchmark_of("class")
    memory = ReplayMemory(Replay(kind="replay", copies=2), InMemoryBatches(1), Encoding.of(SETTINGS), 512, 3)
    strategy = learner(benchmark, "class", [memory.batches, memory])
    with pytest.raises(ValueError, match="copies = 2: a memory of 4 examples is too small for 5 experiences"):
        strategy.train(benchmark.train_stream[0], eval_streams=[])


# ------------------------------------------------------------------------------- what the learner sees


@pytest.mark.parametrize("storage", ["float32", "uint8"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_epoch_has_all_current_data_and_the_memory_as_often_as_it_fits(scenario, storage):
    benchmark = benchmark_of(scenario)
    size = Replay(kind="replay", examples=50, storage=storage)
    strategy, memory, recorder = replaying(benchmark, scenario, size, epochs=2)
    of_experience = data(benchmark)
    stored: Counter[Any] = Counter()
    for index, experience in enumerate(benchmark.train_stream[:3]):
        strategy.train(experience, eval_streams=[])
        batches = recorder.training[index]
        n = len(experience.dataset)
        times = max(1, n // (50 // index * index)) if index else 0
        expected = Counter({key: 1 for key in of_experience[index]}) + Counter(
            {k: times * v for k, v in stored.items()}
        )
        assert len(expected) == n + len(stored), "the data of two experiences overlap; the test needs other data"
        half = len(batches) // 2
        assert seen(batches[:half]) == seen(batches[half:]) == expected
        assert not same([batches[:half]], [batches[half:]]), "the second epoch has the order of the first"
        stored = Counter(
            key
            for inputs, *labels in memory.stored
            for key in keys([Encoding.of(SETTINGS).decode(inputs) if storage == "uint8" else inputs, *labels])
        )


@pytest.mark.parametrize("storage", ["float32", "uint8"])
def test_what_is_replayed_is_the_same_where_the_data_is_kept_as_bytes(storage):
    benchmark = benchmark_of("task")
    size, encoding = Replay(kind="replay", examples=50, storage=storage), Encoding.of(SETTINGS)
    seen_by, stored_by = [], []
    for kept_as in (None, encoding):
        batches, recorder = InMemoryBatches(1, encoding=kept_as), Recorder()
        memory = ReplayMemory(size, batches, encoding, COPY_BYTES, 3)
        strategy = learner(benchmark, "task", [batches, memory, recorder])
        train_on(strategy, benchmark.train_stream[:3])
        seen_by.append(recorder.training)
        stored_by.append([tuple(columns) for columns in memory.stored])
    assert same(*seen_by)
    assert same(*([stored] for stored in stored_by))


def test_old_and_new_examples_are_mixed():
    benchmark = benchmark_of("task")
    strategy, _, recorder = replaying(benchmark, "task", Replay(kind="replay", examples=100))
    train_on(strategy, benchmark.train_stream[:2])
    shares = [float((batch[2] == 0).float().mean()) for batch in recorder.training[1]]
    assert sum(0 < share < 1 for share in shares) > 0.9 * len(shares), shares
    assert sum(shares) / len(shares) == pytest.approx(0.43, abs=0.05)  # 200 old among 266 new


def test_with_iterations_about_every_second_example_is_an_old_one():
    benchmark = benchmark_of("task")
    size = Replay(kind="replay", examples=130)
    strategy, _, recorder = replaying(benchmark, "task", size, iterations=100, batch_size=16)
    train_on(strategy, benchmark.train_stream[:2])
    assert [len(batches) for batches in recorder.training] == [100, 100]
    old = torch.cat([batch[2] == 0 for batch in recorder.training[1]])
    assert float(old.float().mean()) == pytest.approx(0.5, abs=0.03)


SOURCES = [
    "digits",
    "hsu2018-split-mnist-class",
    "split-fmnist-class",
    "split-cifar100-task",
    "fisher-split-cifar10-task",
]


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_replayed_from_bytes_is_the_original_bit_for_bit(name, tmp_path, monkeypatch):
    settings = load_protocol(name).benchmark
    if "cifar" in name:
        write_cifar(tmp_path, monkeypatch, 100 if "100" in name else 10, per_class=3)
    else:
        write_mnist(tmp_path, monkeypatch, "FashionMNIST" if "fmnist" in name else "MNIST")
    benchmark = benchmark_of("class", settings, tmp_path)
    recorded = []
    for storage in ("float32", "uint8"):
        size = Replay(kind="replay", examples=20, storage=storage)
        strategy, memory, recorder = replaying(benchmark, "class", size, settings, batch_size=32)
        train_on(strategy, benchmark.train_stream[:3])
        recorded.append(recorder.training)
        pixels: Tensor = memory.stored[0][0]
        assert pixels.nbytes == len(pixels) * pixels[0].numel() * (1 if storage == "uint8" else 4)
    assert same(*recorded)


# ------------------------------------------------------------------------------- chance, and going on


def test_nothing_but_the_seed_decides_what_is_stored():
    benchmark = benchmark_of("class")

    def stored(seed: int, drawn_before: int) -> list[Any]:
        strategy, memory, _ = replaying(benchmark, "class", Replay(kind="replay", examples=30), seed=seed)
        torch.rand(drawn_before)
        train_on(strategy, benchmark.train_stream[:2])
        return [keys(columns) for columns in memory.stored]

    assert stored(3, 0) == stored(3, 5)
    assert stored(3, 0) != stored(4, 0)


@pytest.mark.parametrize("storage", ["float32", "uint8"])
def test_a_pickled_memory_goes_on_identically(storage):
    benchmark = benchmark_of("task")
    size = Replay(kind="replay", examples=40, storage=storage)
    strategy, memory, recorder = replaying(benchmark, "task", size)
    train_on(strategy, benchmark.train_stream[:2])
    model, optimizer, batches, resumed_memory = pickle.loads(
        pickle.dumps((strategy.model, strategy.optimizer.state_dict(), memory.batches, memory))
    )
    assert resumed_memory.batches is batches
    strategy.train(benchmark.train_stream[2], eval_streams=[])

    resumed_recorder = Recorder()
    resumed = learner(benchmark, "task", [batches, resumed_memory, resumed_recorder], model=model)
    resumed.make_optimizer(reset_optimizer_state=True)
    resumed.optimizer.load_state_dict(optimizer)
    resumed.train(benchmark.train_stream[2], eval_streams=[])
    assert same(recorder.training[2:], resumed_recorder.training)
    for name, value in strategy.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for columns, others in zip(memory.stored, resumed_memory.stored, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(columns, others, strict=True))


def test_a_memory_between_experiences_holds_nothing_but_its_examples():
    benchmark = benchmark_of("class")
    strategy, memory, _ = replaying(benchmark, "class", Replay(kind="replay", examples=20, storage="uint8"))
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    assert memory._new == []
    assert memory.batches.columns == []
    assert len(pickle.dumps(memory.stored)) < 20 * (64 + 16) + 2000
