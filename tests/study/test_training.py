import copy

import pytest
import torch

from study import training
from study.benchmarks import build_benchmark
from study.models import build_model
from study.protocol import SCENARIOS
from study.training import ShuffledBatches, accuracy_matrix, perform

PENALISED = ["l2", "ewc", "online_ewc", "mas", "si"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_same_run_gives_the_same_matrix_to_the_last_bit_whatever_was_drawn_before(run_of, scenario):
    run = run_of("ewc", scenario)
    first = accuracy_matrix(run)
    torch.manual_seed(12345)
    torch.rand(7)
    assert accuracy_matrix(run) == first
    assert accuracy_matrix(run_of("ewc", scenario, seed=1)) != first


@pytest.mark.parametrize("method", PENALISED)
def test_methods_are_paired_without_penalty_each_is_naive_training(run_of, method):
    """Same weights and same batches, although the methods themselves read data and draw numbers."""
    assert accuracy_matrix(run_of(method, "task", strength=0.0)) == accuracy_matrix(run_of("naive", "task"))


@pytest.mark.parametrize("method", PENALISED)
def test_a_strong_penalty_changes_what_is_learned_after_the_first_experience(run_of, method):
    naive = accuracy_matrix(run_of("naive", "domain"))
    held = accuracy_matrix(run_of(method, "domain", strength=1e3))
    assert held[0] == naive[0]
    assert held[1] != naive[1]


def test_training_learns_and_forgets_as_it_does_in_the_literature(run_of):
    """Class-incremental naive training knows the latest classes only; joint training knows all."""
    training = run_of().training.model_copy(update={"epochs": 6})
    naive = accuracy_matrix(run_of("naive", training=training))
    assert naive[0][0] > 0.9
    assert naive[0][1] == 0
    assert naive[1][1] > 0.9
    assert naive[1][0] < 0.5
    (joint,) = accuracy_matrix(run_of("joint", training=training))
    assert min(joint) > 0.8, joint


def test_joint_training_uses_the_head_of_each_task(run_of):
    (accuracy,) = accuracy_matrix(run_of("joint", "task"))
    assert min(accuracy) > 0.7, accuracy  # five classes a task


def test_a_run_that_fails_gives_a_record_that_says_how(run_of, monkeypatch):
    def fail(run: object) -> None:
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(training, "accuracy_matrix", fail)
    record = perform(run_of())
    assert not record.finished
    assert record.error.strip().endswith("FloatingPointError: the loss is nan")


def test_the_caller_keeps_its_threads_and_its_random_numbers(run_of):
    torch.set_num_threads(2)
    torch.manual_seed(3)
    expected = torch.rand(4, generator=torch.Generator().manual_seed(3))
    perform(run_of())
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.rand(4), expected)


class Learner:
    """As much of a strategy as the batches need."""

    def __init__(self, n: int) -> None:
        self.adapted_dataset = torch.utils.data.TensorDataset(torch.arange(n), torch.arange(n) * 10)
        self.train_mb_size = 4


def test_every_epoch_has_every_sample_once_in_an_order_that_the_seed_decides():
    def epochs(seed: int) -> list[list[int]]:
        batches, learner = ShuffledBatches(seed), Learner(10)
        batches.before_training_exp(learner)
        return [[int(x) for inputs, _ in learner.dataloader for x in inputs] for _ in range(2)]

    first, second = epochs(0)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert epochs(0) == [first, second]
    assert epochs(1)[0] != first


def test_inputs_and_targets_stay_together_and_the_last_batch_is_what_is_left():
    batches, learner = ShuffledBatches(0), Learner(10)
    batches.before_training_exp(learner)
    sizes = []
    for inputs, targets in learner.dataloader:
        assert torch.equal(inputs * 10, targets)
        sizes.append(len(inputs))
    assert sizes == [4, 4, 2]


def test_a_head_is_frozen_until_its_experience_comes(protocol):
    benchmark = build_benchmark(protocol.benchmark, "task")
    model = build_model(protocol.model, "task", benchmark)
    first, second = benchmark.train_stream

    def trainable() -> list[bool]:
        return [head.classifier.weight.requires_grad for head in model.heads.classifiers.values()]

    assert trainable() == [False, False]
    model.train().adaptation(first)
    assert trainable() == [True, False]
    before = copy.deepcopy(model.state_dict())
    model.eval().adaptation(second)
    assert trainable() == [True, False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.train().adaptation(second)
    assert trainable() == [True, True]
