"""What a scenario tells the learner, which data it learns from, and which it is evaluated on."""

from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.benchmarks.utils import concat_datasets
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from study.protocol.load import load_protocol
from study.protocol.settings import Benchmark, Scenario
from study.run.benchmarks import build_benchmark
from study.run.data import DataError, load_images
from tests.study.images import write_cifar, write_mnist

DIGITS = Benchmark(name="split_digits", experiences=5, test_fraction=0.25)
PERMUTED = Benchmark(name="permuted_mnist", experiences=4, padding=2)


def built(settings: Benchmark, scenario: Scenario = "class", root: Path = Path(), seed: int = 0, **options: Any) -> Any:
    return build_benchmark(settings, scenario, root, torch.Generator().manual_seed(seed), **options)


def samples(experience: Any) -> tuple[Tensor, list[int], list[int]]:
    """All inputs of an experience, and their labels and task labels."""
    inputs, labels, tasks = zip(*experience.dataset, strict=True)
    return torch.stack(inputs), list(map(int, labels)), list(map(int, tasks))


def told(stream: Any) -> tuple[list[set[int]], list[set[int]]]:
    """For each experience its classes and its task labels, as its data has them."""
    read = [samples(experience) for experience in stream]
    assert [set(labels) for _, labels, _ in read] == [set(e.classes_in_this_experience) for e in stream]
    assert [set(tasks) for _, _, tasks in read] == [set(e.task_labels) for e in stream]
    return [set(labels) for _, labels, _ in read], [set(tasks) for _, _, tasks in read]


def rows(stream: Any) -> Counter[bytes]:
    """How often each image is in a stream."""
    return Counter(image.numpy().tobytes() for experience in stream for image in samples(experience)[0])


# ------------------------------------------------------------------------------- split


@pytest.mark.parametrize(
    ("scenario", "classes", "tasks"),
    [
        ("task", [{0, 1}] * 5, [{0}, {1}, {2}, {3}, {4}]),
        ("domain", [{0, 1}] * 5, [{0}] * 5),
        ("class", [{0, 1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}], [{0}] * 5),
    ],
)
@pytest.mark.parametrize("class_order", ["labels", "random"])
def test_what_a_scenario_tells_the_learner(scenario, classes, tasks, class_order):
    benchmark = built(DIGITS.model_copy(update={"class_order": class_order}), scenario)
    for name in ("train", "test"):
        stream = getattr(benchmark, f"{name}_stream")
        assert stream.name == name
        assert told(stream) == (classes, tasks)


def digits_of(stream: Any) -> list[list[int]]:
    """The true digits of each experience's labels, in the order of the labels."""
    images, _ = load_images("split_digits", Path())
    true = {image.numpy().tobytes(): int(label) for image, label in zip(images.pixels, images.targets, strict=True)}
    found = []
    for experience in stream:
        inputs, labels, _ = samples(experience)
        of_label: dict[int, set[int]] = {}
        for image, label in zip((inputs * 16).round().to(torch.uint8), labels, strict=True):
            of_label.setdefault(label, set()).add(true[image.numpy().tobytes()])
        assert all(len(digits) == 1 for digits in of_label.values()), of_label
        found.append([of_label[label].pop() for label in sorted(of_label)])
    return found


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_classes_come_in_the_order_of_their_labels_or_in_one_that_the_seed_draws(scenario):
    fixed = built(DIGITS, scenario, seed=1)
    assert digits_of(fixed.train_stream) == digits_of(fixed.test_stream) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    random = DIGITS.model_copy(update={"class_order": "random"})
    drawn = [built(random, scenario, seed=seed) for seed in (1, 1, 2)]
    orders = [digits_of(benchmark.train_stream) for benchmark in drawn]
    assert orders == [digits_of(benchmark.test_stream) for benchmark in drawn]
    expected = torch.randperm(10, generator=torch.Generator().manual_seed(1)).view(5, 2).tolist()
    assert orders[0] == orders[1] == expected
    assert sorted(chain(*orders[2])) == list(range(10))
    assert orders[2] != orders[0]


def test_training_and_test_data_are_all_the_images_in_shares_of_each_class():
    benchmark = built(DIGITS)
    images, _ = load_images("split_digits", Path())
    assert rows([*benchmark.train_stream, *benchmark.test_stream]) == Counter(
        image.numpy().tobytes() for image in images.pixels / 16
    )
    for seen, unseen in zip(benchmark.train_stream, benchmark.test_stream, strict=True):
        trained, tested = Counter(samples(seen)[1]), Counter(samples(unseen)[1])
        for label in trained:
            assert tested[label] / (trained[label] + tested[label]) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("seed", [0, 1])
def test_test_data_is_the_same_whatever_the_seed(seed):
    assert rows(built(DIGITS, seed=seed).test_stream) == rows(built(DIGITS).test_stream)
    other = DIGITS.model_copy(update={"split_seed": 1})
    assert rows(built(other).test_stream) != rows(built(DIGITS).test_stream)


# ------------------------------------------------------------------------------- validation


@pytest.mark.parametrize("name", ["split_digits", "split_mnist", "permuted_mnist"])
def test_validation_data_is_a_stratified_part_of_the_training_data_and_test_data_stays_unseen(
    name, tmp_path, monkeypatch
):
    write_mnist(tmp_path, monkeypatch, per_class=20)
    settings = DIGITS if name == "split_digits" else Benchmark(name=name, experiences=2)
    ordinary = built(settings, root=tmp_path)
    tuning = built(settings, root=tmp_path, evaluated_on="validation", validation_fraction=0.2)
    trained, validated, tested = rows(tuning.train_stream), rows(tuning.test_stream), rows(ordinary.test_stream)
    assert trained + validated == rows(ordinary.train_stream)
    assert not set(trained) & set(validated)
    assert not (set(trained) | set(validated)) & set(tested)
    for seen, unseen in zip(tuning.train_stream, tuning.test_stream, strict=True):
        of_label = Counter(samples(unseen)[1])
        for label, n in Counter(samples(seen)[1]).items():
            assert of_label[label] / (n + of_label[label]) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(("evaluated_on", "fraction"), [("validation", None), ("test", 0.2)])
def test_validation_data_and_its_share_go_together(evaluated_on, fraction):
    with pytest.raises(ValueError, match=f"{evaluated_on}.* does not go with validation_fraction = {fraction}"):
        built(DIGITS, evaluated_on=evaluated_on, validation_fraction=fraction)


@pytest.mark.parametrize("fraction", [1e-4, 0.001, 0.9999])
def test_a_fraction_that_leaves_a_class_without_a_sample_is_an_error_that_says_what_is_needed(fraction):
    said = rf"= {fraction}: a class gets no sample in one of the two parts; .*allowed: about 0\.00\d+ to 0\.99"
    with pytest.raises(DataError, match=rf"benchmark\.test_fraction {said}"):
        built(DIGITS.model_copy(update={"test_fraction": fraction}))
    with pytest.raises(DataError, match=rf"tuning\.validation_fraction {said}"):
        built(DIGITS, evaluated_on="validation", validation_fraction=fraction)


@pytest.mark.parametrize("fraction", [0.006, 0.994])
def test_a_fraction_that_is_said_to_be_allowed_is(fraction):
    benchmark = built(DIGITS.model_copy(update={"test_fraction": fraction}))
    for stream in (benchmark.train_stream, benchmark.test_stream):
        assert [len(set(samples(experience)[1])) for experience in stream] == [2] * 5


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("name", ["split_digits", "permuted_digits"])
def test_a_loader_reads_the_samples_that_avalanche_reads_one_at_a_time(name, scenario):
    settings = DIGITS.model_copy(update={"name": name})
    dataset = built(settings, scenario).train_stream[3].dataset
    whole, part = dataset.eval(), dataset.subset([7, 0, 30, 7])
    joined = concat_datasets([part, dataset])
    for data in (whole, part, joined):
        batches = DataLoader(data, batch_size=50, collate_fn=data.collate_fn)
        read = [torch.cat(column) for column in zip(*batches, strict=True)]
        expected = default_collate([data[i] for i in range(len(data))])
        for column, values in zip(read, expected, strict=True):
            assert column.dtype == values.dtype
            assert torch.equal(column, values)


def test_transforms_and_other_attributes_that_a_method_sets_reach_a_loader():
    dataset = built(DIGITS, "task").train_stream[3].dataset
    brighter = dataset.replace_current_transform_group(lambda x: x + 1)
    relabelled = dataset.update_data_attribute("targets_task_labels", [9] * len(dataset))
    for data, column, value in ((brighter, 0, dataset[0][0] + 1), (relabelled, 2, torch.tensor(9))):
        assert torch.equal(next(iter(DataLoader(data, batch_size=50)))[column][0], value)


# ------------------------------------------------------------------------------- permuted


@pytest.fixture
def permuted(tmp_path, monkeypatch) -> Path:
    write_mnist(tmp_path, monkeypatch)
    return tmp_path


@pytest.mark.parametrize(
    ("scenario", "classes", "tasks"),
    [
        ("task", [set(range(10))] * 4, [{0}, {1}, {2}, {3}]),
        ("domain", [set(range(10))] * 4, [{0}] * 4),
        ("class", [set(range(10 * i, 10 * i + 10)) for i in range(4)], [{0}] * 4),
    ],
)
def test_what_a_scenario_tells_the_learner_of_permuted_images(scenario, classes, tasks, permuted):
    benchmark = built(PERMUTED, scenario, permuted)
    for stream in (benchmark.train_stream, benchmark.test_stream):
        assert told(stream) == (classes, tasks)


def test_permuted_mnist_has_100_classes_over_ten_experiences(permuted):
    benchmark = built(load_protocol("vandeven2018-permuted-mnist-class").benchmark, "class", permuted)
    classes = [set(experience.classes_in_this_experience) for experience in benchmark.train_stream]
    assert set.union(*classes) == set(range(100))
    assert sum(map(len, classes)) == 100


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_each_experience_has_all_images_under_a_permutation_that_train_and_test_share(scenario, permuted):
    benchmark = built(PERMUTED, scenario, permuted, seed=3)
    generator = torch.Generator().manual_seed(3)
    images = load_images("permuted_mnist", permuted)
    for index in range(4):
        permutation = torch.randperm(32 * 32, generator=generator)
        for stream, part in zip((benchmark.train_stream, benchmark.test_stream), images, strict=True):
            inputs, labels, _ = samples(stream[index])
            padded = torch.zeros(len(part.targets), 32, 32)
            padded[:, 2:-2, 2:-2] = part.pixels.squeeze(1) / 255
            assert torch.equal(inputs.flatten(1), padded.flatten(1)[:, permutation])
            assert [label % 10 for label in labels] == part.targets.tolist()


def test_permutations_differ_between_experiences_and_seeds_and_come_from_the_generator_alone(permuted):
    def inputs(seed: int) -> list[bytes]:
        return [samples(e)[0].numpy().tobytes() for e in built(PERMUTED, root=permuted, seed=seed).train_stream]

    first = inputs(0)
    assert len(set(first)) == 4
    torch.manual_seed(77)
    assert inputs(0) == first
    assert not set(inputs(1)) & set(first)


def test_permuted_digits_are_all_digits_under_permutations_and_keep_apart_what_is_tested():
    settings = DIGITS.model_copy(update={"name": "permuted_digits", "experiences": 3, "padding": 2})
    benchmark, split = built(settings, "domain"), built(DIGITS.model_copy(update={"padding": 2}), "class")
    for name in ("train", "test"):
        images, labels, _ = samples(getattr(benchmark, f"{name}_stream")[0])
        expected = Counter(image.numpy().tobytes() for e in getattr(split, f"{name}_stream") for image in samples(e)[0])
        permutation = torch.randperm(144, generator=torch.Generator().manual_seed(0))
        restored = images.flatten(1)[:, permutation.argsort()].view_as(images)
        assert Counter(image.numpy().tobytes() for image in restored) == expected
        assert set(labels) == set(range(10))
        assert len({samples(e)[0].numpy().tobytes() for e in getattr(benchmark, f"{name}_stream")}) == 3


# ------------------------------------------------------------------------------- images


def test_pixels_are_padded_and_normalised_as_worked_out_by_hand(permuted):
    files = load_images("split_mnist", permuted)[0]
    settings = load_protocol("hsu2018-split-mnist-task").benchmark
    inputs, labels, _ = samples(built(settings, "class", permuted).train_stream[0])
    assert inputs.shape[1:] == (1, 32, 32)
    border = -0.1 / 0.2752
    for row, column in ((0, 0), (1, 17), (31, 31), (30, 2)):
        torch.testing.assert_close(inputs[:, 0, row, column], torch.full((len(inputs),), border))
    kept = files.targets < 2
    assert labels == files.targets[kept].tolist()
    for row, column in ((0, 0), (5, 9), (27, 27)):
        expected = (files.pixels[kept, 0, row, column] / 255 - 0.1) / 0.2752
        torch.testing.assert_close(inputs[:, 0, row + 2, column + 2], expected)


@pytest.mark.parametrize(("n_classes", "experiences"), [(10, 5), (100, 5)])
def test_cifar_is_split_by_class_with_its_channels_normalised(n_classes, experiences, tmp_path, monkeypatch):
    (images, labels), _ = write_cifar(tmp_path, monkeypatch, n_classes, per_class=3).values()
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    settings = Benchmark(name=f"split_cifar{n_classes}", experiences=experiences, mean=mean, std=std)
    share = n_classes // experiences
    for index, experience in enumerate(built(settings, "task", tmp_path).train_stream):
        inputs, found, _ = samples(experience)
        kept = labels // share == index
        assert found == (labels[kept] % share).tolist()
        for channel in range(3):
            expected = (torch.from_numpy(images[kept, channel]) / 255 - mean[channel]) / std[channel]
            torch.testing.assert_close(inputs[:, channel], expected)


def test_the_published_mnist_has_the_published_numbers_of_images(mnist):
    benchmark = built(load_protocol("vandeven2018-split-mnist-task").benchmark, "task", mnist)
    assert sum(len(e.dataset) for e in benchmark.train_stream) == 60_000
    assert sum(len(e.dataset) for e in benchmark.test_stream) == 10_000
    fixed = built(load_protocol("hsu2018-split-mnist-task").benchmark, "task", mnist)
    assert [len(e.dataset) for e in fixed.train_stream] == [12665, 12089, 11263, 12183, 11800]
    assert [len(e.dataset) for e in fixed.test_stream] == [2115, 2042, 1874, 1986, 1983]
    image, label, task = fixed.train_stream[4].dataset[0]
    assert (tuple(image.shape), int(task)) == ((1, 32, 32), 4)
    assert int(label) in (0, 1)
