"""The published networks, and which of their outputs learn when."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from study.protocol.load import load_protocol, protocol_names
from study.protocol.settings import SCENARIOS, Benchmark, Model, Scenario
from study.run.batches import InMemoryBatches, columns_of
from study.run.benchmarks import build_benchmark
from study.run.models import MultiHead, build_model, parameter_bytes
from tests.study.images import write_cifar, write_mnist
from tests.study.recording import learner, train_on

DIGITS = Benchmark(name="split_digits", experiences=5, test_fraction=0.25)
MLP = Model(name="mlp", hidden=[16])

BenchmarkOf = Callable[[Benchmark, Scenario], Any]


@pytest.fixture
def benchmark_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BenchmarkOf:
    """Any benchmark, on generated images."""
    for name in ("MNIST", "FashionMNIST"):
        write_mnist(tmp_path, monkeypatch, name)
    for n_classes in (10, 100):
        write_cifar(tmp_path, monkeypatch, n_classes, per_class=3)

    def build(settings: Benchmark, scenario: Scenario) -> Any:
        return build_benchmark(settings, scenario, tmp_path, torch.Generator().manual_seed(0))

    return build


def digits(scenario: Scenario) -> Any:
    return build_benchmark(DIGITS, scenario, Path(), torch.Generator().manual_seed(0))


def batch(experience: Any, n: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    inputs, targets, tasks = columns_of(experience.dataset, torch.device("cpu"))
    return inputs[:n], targets[:n], tasks[:n]


def n_parameters(model: nn.Module) -> int:
    assert parameter_bytes(model) == 4 * sum(p.numel() for p in model.parameters())
    return parameter_bytes(model) // 4


# ------------------------------------------------------------------------------- shapes and sizes

CASES = [(name, load_protocol(name).scenarios[0]) for name in protocol_names()]
CASES += [("digits", "domain"), ("digits", "class")]
CASES += [
    (name, scenario)
    for name in ("fisher-split-cifar10-task", "split-cifar100-task")
    for scenario in ("domain", "class")
]


@pytest.mark.parametrize(("name", "scenario"), CASES)
def test_a_protocols_network_takes_its_images_and_tells_its_classes_apart(name, scenario, benchmark_of):
    protocol = load_protocol(name)
    if protocol.benchmark.name == "split_cifar10_jpeg":  # images of the same shape
        protocol = load_protocol(name, ["benchmark.name=split_cifar10"])
    benchmark = benchmark_of(protocol.benchmark, scenario)
    model = build_model(protocol.model, scenario, benchmark)
    classes = [set(experience.classes_in_this_experience) for experience in benchmark.train_stream]
    n_outputs = len(set.union(*classes))
    for experience in (benchmark.train_stream[0], benchmark.test_stream[-1]):
        inputs, targets, tasks = batch(experience, 3)
        out = model(inputs, tasks) if scenario == "task" else model(inputs)
        assert out.shape == (len(inputs), n_outputs)
        assert torch.isfinite(out).all()
        assert int(targets.max()) < n_outputs
    n_heads = len(model.heads.classifiers) if isinstance(model, MultiHead) else 1
    assert n_heads == (len(classes) if scenario == "task" else 1)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("hsu2018-split-mnist-task", 574_410),  # 1024-400-400, and five heads of two make as many as one of ten
        ("hsu2018-split-mnist-class", 574_410),
        ("hsu2018-split-mnist-domain", 571_202),
        ("vandeven2018-split-mnist-class", 784 * 400 + 400 + 400 * 400 + 400 + 400 * 10 + 10),
        ("vandeven2018-permuted-mnist-class", 1024 * 1000 + 1000 + 1000 * 1000 + 1000 + 1000 * 100 + 100),
        ("zenke2017-permuted-mnist", 784 * 2000 + 2000 + 2000 * 2000 + 2000 + 2000 * 10 + 10),
    ],
)
def test_the_published_mlps_have_the_published_numbers_of_parameters(name, parameters, benchmark_of):
    protocol = load_protocol(name)
    scenario = protocol.scenarios[0]
    assert n_parameters(build_model(protocol.model, scenario, benchmark_of(protocol.benchmark, scenario))) == parameters


def test_the_cnn_pools_after_every_second_convolution(benchmark_of):
    protocol = load_protocol("kronecker-split-fmnist-cnn")
    convolutions = (9 * 1 + 1) * 8 + (9 * 8 + 1) * 8 + (9 * 8 + 1) * 16 + (9 * 16 + 1) * 16
    for scenario, head in (("domain", 2), ("class", 10)):
        model = build_model(protocol.model, scenario, benchmark_of(protocol.benchmark, scenario))
        assert n_parameters(model) == convolutions + (16 * 7 * 7 + 1) * head


def residual_network(widths: list[int], blocks: int, stem: int, batchnorm_before: bool) -> int:
    """Parameters of a residual network for 3 channels: blocks of two 3 x 3 convolutions without bias, with batch norm
    before each (Zagoruyko and Komodakis 2016) or after each (He et al. 2016), the first of a stage with a 1 x 1
    convolution in the shortcut where the shape changes, which is normalised in the latter case only.
    """
    total, n_in = 3 * 9 * stem + (0 if batchnorm_before else 2 * stem), stem
    for stage, width in enumerate(widths):
        for block in range(blocks):
            norms = 2 * (n_in + width) if batchnorm_before else 4 * width
            total += 9 * n_in * width + 9 * width * width + norms
            if n_in != width or (block == 0 and stage > 0):
                total += n_in * width + (0 if batchnorm_before else 2 * width)
            n_in = width
    return total + (2 * n_in if batchnorm_before else 0)


def test_the_reduced_resnet18_starts_with_20_channels_and_has_about_a_million_parameters(benchmark_of):
    protocol = load_protocol("fisher-split-cifar10-task")
    model = build_model(protocol.model, "class", benchmark_of(protocol.benchmark, "class"))
    trunk = residual_network([20, 40, 80, 160], 2, 20, batchnorm_before=False)
    assert n_parameters(model) == trunk + 160 * 10 + 10
    assert n_parameters(model) == 1_094_750  # a tenth of ResNet-18's 11.2 million


def test_the_wide_resnet_28_2_has_about_a_million_and_a_half_parameters(benchmark_of):
    protocol = load_protocol("split-cifar100-task")
    model = build_model(protocol.model, "class", benchmark_of(protocol.benchmark, "class"))
    trunk = residual_network([32, 64, 128], 4, 16, batchnorm_before=True)
    assert n_parameters(model) == trunk + 128 * 100 + 100
    assert trunk + 128 * 10 + 10 == 1_467_610  # with ten classes, as the literature quotes it
    heads = build_model(protocol.model, "task", benchmark_of(protocol.benchmark, "task"))
    assert n_parameters(heads) == n_parameters(model)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_weights_are_drawn_from_the_global_generator_alone(scenario):
    benchmark = digits(scenario)
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(build_model(MLP, scenario, benchmark).state_dict())
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())
    assert any(not torch.equal(value, models[2][name]) for name, value in models[0].items())


# ------------------------------------------------------------------------------- a head for each task


def trainable(model: MultiHead) -> list[bool]:
    heads = [{p.requires_grad for p in head.parameters()} for head in model.heads.classifiers.values()]
    assert all(len(flags) == 1 for flags in heads)
    return [flags.pop() for flags in heads]


def test_a_head_is_frozen_until_its_experience_comes():
    benchmark = digits("task")
    model = build_model(MLP, "task", benchmark)
    assert trainable(model) == [False] * 5
    assert all(p.requires_grad for p in model.trunk.parameters())
    for index, experience in enumerate(benchmark.train_stream):
        model.train().adaptation(experience)
        assert trainable(model) == [True] * (index + 1) + [False] * (4 - index)


def test_looking_at_an_experience_to_come_changes_nothing_in_the_model():
    benchmark = digits("task")
    model = build_model(MLP, "task", benchmark)
    model.train().adaptation(benchmark.train_stream[0])
    before = copy.deepcopy(model.state_dict())
    for experience in benchmark.test_stream:
        model.eval().adaptation(experience)
    assert trainable(model) == [True, False, False, False, False]
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_each_sample_is_answered_by_the_head_of_its_task():
    benchmark = digits("task")
    model = build_model(MLP, "task", benchmark).eval()
    inputs, _, _ = batch(benchmark.train_stream[0], 5)
    tasks = torch.tensor([4, 0, 2, 2, 1])
    out = model(inputs, tasks)
    features = model.trunk(inputs)
    for row, task in enumerate(tasks.tolist()):
        torch.testing.assert_close(out[row], model.heads.classifiers[str(task)].classifier(features[row]))
    of_all_tasks = model(inputs, None)
    assert sorted(of_all_tasks) == [0, 1, 2, 3, 4]
    torch.testing.assert_close(of_all_tasks[4][0], out[0])


def test_a_tasks_loss_reaches_its_own_head_only():
    benchmark = digits("task")
    model = build_model(MLP, "task", benchmark)
    for experience in benchmark.train_stream:
        model.train().adaptation(experience)
    inputs, targets, tasks = batch(benchmark.train_stream[2])
    F.cross_entropy(model(inputs, tasks), targets).backward()
    for task, head in model.heads.classifiers.items():
        for p in head.parameters():
            assert (p.grad is not None and bool(p.grad.any())) == (task == "2"), task


# ------------------------------------------------------------------------------- outputs of classes not seen yet


def gradients(unseen_classes: str, seen: int) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax, and gradients of the last layer's weight and bias, after so many experiences of two classes each."""
    benchmark = digits("class")
    model = build_model(MLP.model_copy(update={"unseen_classes": unseen_classes}), "class", benchmark)
    strategy = learner(benchmark, "class", [], model=model)
    train_on(strategy, benchmark.train_stream[:seen])
    inputs, targets, _ = batch(benchmark.train_stream[seen - 1])
    model.zero_grad()
    out = model(inputs)
    F.cross_entropy(out, targets).backward()
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    return out.softmax(1), last.weight.grad, last.bias.grad


@pytest.mark.parametrize("seen", [1, 3])
def test_masked_outputs_take_no_part_at_all_and_shown_ones_do(seen):
    for unseen_classes in ("masked", "shown"):
        softmax, weight, bias = gradients(unseen_classes, seen)
        assert bool((softmax[:, : 2 * seen] > 0).all())
        assert bool(weight[: 2 * seen].abs().sum(1).gt(0).all())
        for unseen in (softmax[:, 2 * seen :], weight[2 * seen :], bias[2 * seen :]):
            assert bool((unseen == 0).all()) == (unseen_classes == "masked"), unseen_classes


def test_a_class_takes_part_from_its_experience_on_and_evaluation_unmasks_nothing():
    benchmark = digits("class")
    model = build_model(MLP, "class", benchmark)
    strategy = learner(benchmark, "class", [], model=model)
    head = model[1]
    for index, experience in enumerate(benchmark.train_stream):
        before = head.classifier.weight.detach().clone()
        strategy.train(experience, eval_streams=[])
        strategy.eval(benchmark.test_stream)
        changed = (head.classifier.weight != before).any(1).tolist()
        seen = 2 * (index + 1)
        assert changed == [True] * seen + [False] * (10 - seen)
        assert head.active_units.tolist() == [1] * seen + [0] * (10 - seen)


def test_classes_in_a_random_order_are_masked_by_when_they_come(benchmark_of):
    settings = DIGITS.model_copy(update={"class_order": "random"})
    benchmark = benchmark_of(settings, "class")
    model = build_model(MLP, "class", benchmark)
    strategy = learner(benchmark, "class", [], model=model)
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    shown = model(batch(benchmark.train_stream[0])[0]).softmax(1) > 0
    assert shown.all(0).tolist() == [True] * 2 + [False] * 8


# ------------------------------------------------------------------------------- and in training


@pytest.mark.parametrize("unseen_classes", ["masked", "shown"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_looking_at_the_accuracy_on_experiences_to_come_does_not_change_training(scenario, unseen_classes):
    benchmark = digits(scenario)
    weights = []
    for looks in (False, True):
        torch.manual_seed(0)
        model = build_model(MLP.model_copy(update={"unseen_classes": unseen_classes}), scenario, benchmark)
        strategy = learner(benchmark, scenario, [InMemoryBatches(0)], model=model, epochs=2)
        for experience in benchmark.train_stream[:3]:
            if looks:
                strategy.eval(benchmark.test_stream)
            strategy.train(experience, eval_streams=[benchmark.test_stream] if looks else [])
        weights.append(strategy.model.state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
