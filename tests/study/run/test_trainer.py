import gc
import math
import weakref
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from study.campaign.one_run import perform_and_record
from study.protocol.settings import SCENARIOS, Training
from study.run import trainer as training
from study.run.methods import build_optimizer
from study.run.result import Matrix
from study.run.run_environment import RunEnvironment
from study.run.specification import Run
from study.run.trainer import perform

PENALISED = ["l2", "ewc", "online_ewc", "mas", "si", "lwf"]

HERE = RunEnvironment(Path())


def matrix(run: Run) -> Matrix:
    record = perform(run, HERE)
    assert record.finished, record.error
    return record.accuracy


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_same_run_gives_the_same_matrix_to_the_last_bit_whatever_was_drawn_before(run_of, scenario):
    run = run_of("ewc", scenario)
    first = perform(run, HERE)
    torch.manual_seed(12345)
    torch.rand(7)
    second = perform(run, HERE)
    assert (second.accuracy, second.loss, second.training_loss) == (first.accuracy, first.loss, first.training_loss)
    other = perform(run_of("ewc", scenario, seed=1), HERE)
    assert other.loss != first.loss


@pytest.mark.parametrize("method", PENALISED)
def test_methods_are_paired_without_penalty_each_is_naive_training(run_of, method):
    """Same weights and same batches, although the methods themselves read data and draw numbers."""
    without = perform(run_of(method, "task", strength=0.0), HERE)
    naive = perform(run_of("naive", "task"), HERE)
    assert (without.accuracy, without.loss) == (naive.accuracy, naive.loss)


@pytest.mark.parametrize("method", PENALISED)
def test_a_strong_penalty_changes_what_is_learned_after_the_first_experience(run_of, method):
    naive = matrix(run_of("naive", "domain"))
    held = matrix(run_of(method, "domain", strength=1e3))
    assert held[0] == naive[0]
    assert held[1] != naive[1]


def test_training_learns_and_forgets_as_it_does_in_the_literature(run_of):
    """Class-incremental naive training knows the latest classes only; joint and cumulative training and replay know
    all.
    """
    longer = run_of().training.model_copy(update={"epochs": 6})
    naive = matrix(run_of("naive", training=longer))
    assert naive[0][0] > 0.9
    assert naive[0][1] == 0
    assert naive[1][1] > 0.9
    assert naive[1][0] < 0.5
    (joint,) = matrix(run_of("joint", training=longer))
    assert min(joint) > 0.8, joint
    for method in ("cumulative", "replay-matched"):
        rows = matrix(run_of(method, training=longer))
        assert min(rows[-1]) > 0.8, (method, rows)


@pytest.mark.parametrize("method", ["joint", "cumulative", "replay-matched"])
def test_training_on_several_tasks_at_once_uses_the_head_of_each(run_of, method):
    accuracy = matrix(run_of(method, "task"))[-1]
    assert min(accuracy) > 0.7, accuracy  # five classes a task


def test_joint_training_makes_as_many_updates_as_a_continual_learner(run_of, monkeypatch):
    steps = []
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: steps.append(1))
    for length in ({"epochs": 2, "iterations": None}, {"epochs": None, "iterations": 7}):
        counted = {}
        for method in ("naive", "joint"):
            steps.clear()
            matrix(run_of(method, training=run_of().training.model_copy(update=length)))
            counted[method] = len(steps)
        assert abs(counted["naive"] - counted["joint"]) <= 2, counted  # the batches of what is left over
    assert counted == {"naive": 14, "joint": 14}


def test_adagrad_divides_by_the_root_of_the_sum_of_squares_also_where_its_state_was_emptied():
    layer = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(
        Training(epochs=1, batch_size=1, optimizer="adagrad", learning_rate=0.1), torch.nn.Sequential(layer)
    )
    for _ in range(2):
        optimizer.state = defaultdict(dict)  # as Avalanche does
        expected, squares = layer.weight.detach().clone(), torch.zeros(2, 3)
        for gradient in torch.randn(4, 2, 3):
            layer.weight.grad = gradient.clone()
            optimizer.step()
            squares += gradient**2
            expected -= 0.1 * gradient / squares.sqrt()
            torch.testing.assert_close(layer.weight.detach(), expected)


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_the_optimizers_state_is_kept_or_reset_as_the_protocol_says(run_of, optimizer):
    def losses(state: str) -> Matrix:
        more = {"optimizer": optimizer, "optimizer_state": state}
        return perform(run_of("naive", training=run_of().training.model_copy(update=more)), HERE).loss

    kept, reset = losses("keep"), losses("reset")
    assert kept[0] == reset[0]
    assert kept[1] != reset[1]


def test_a_record_holds_everything_after_every_experience(run_of):
    record = perform(run_of("ewc"), HERE)
    assert [len(row) for row in record.accuracy] == [len(row) for row in record.loss] == [2, 2]
    assert len(record.training_loss) == 2
    assert 0 < record.training_loss[0] < math.log(10)
    for seconds in (record.seconds.training, record.seconds.consolidation, record.seconds.evaluation):
        assert len(seconds) == 2
        assert min(seconds) > 0
    weights = 64 * 100 + 100 + 100 * 100 + 100 + 100 * 10 + 10
    assert 2 * 4 * weights <= record.plugin_memory < 2.01 * 4 * weights, "importance and anchor"
    assert 2 * 4 * weights <= record.plugin_scratch < 2.01 * 4 * weights, "θ − θ* and the penalty's gradient"
    assert record.peak_memory > 50e6
    assert record.gpu is None
    naive = perform(run_of("naive"), HERE)
    assert (naive.plugin_memory, naive.importance) == (0, [])


def test_a_record_holds_the_sum_of_the_importance_after_every_experience(run_of):
    learner = training.Learner(run_of("ewc"), HERE)
    sums = []
    for index in range(2):
        learner.learn(index)
        sums.append(sum(of.double().sum().item() for of in learner.method_plugin.penalty.diagonal().values()))
    assert learner.result("finished", None).importance == pytest.approx(sums, rel=1e-12)
    assert 0 < sums[0] < sums[1], "the importances of both experiences"


def test_the_loss_that_is_recorded_is_that_without_the_penalty(run_of):
    free = perform(run_of("ewc", "domain", strength=0.0), HERE)
    bound = perform(run_of("ewc", "domain", strength=1e8), HERE)  # far from what it would learn
    assert bound.training_loss[0] == free.training_loss[0]
    assert bound.training_loss[1] < 20, "with the penalty it would be in the thousands"
    assert bound.training_loss[1] > free.training_loss[1]


def test_a_run_that_fails_gives_a_record_that_says_how(run_of, monkeypatch):
    def fail(self: object, index: int) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(training.Learner, "learn", fail)
    record = perform(run_of(), HERE)
    assert record.outcome == "failed"
    assert record.error.endswith("RuntimeError: no such thing\n")


@pytest.mark.parametrize(("method", "rate"), [("naive", 1e38), ("ewc", 1e38)])
def test_a_run_whose_loss_is_not_finite_has_diverged(run_of, method, rate):
    diverging = run_of().training.model_copy(update={"optimizer": "sgd", "learning_rate": rate})
    record = perform(run_of(method, training=diverging), HERE)
    assert record.outcome == "diverged"
    assert not record.finished
    assert "FloatingPointError" in record.error


def test_a_run_that_diverges_late_keeps_what_it_had(run_of, monkeypatch):
    learn = training.Learner.learn

    def nan_in_the_second(self: training.Learner, index: int) -> None:
        if index == 1:
            next(self.state.model.parameters()).data.fill_(float("nan"))
        learn(self, index)

    complete = matrix(run_of())
    monkeypatch.setattr(training.Learner, "learn", nan_in_the_second)
    record = perform(run_of(), HERE)
    assert record.outcome == "diverged"
    assert record.accuracy == complete[:1]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_run_whose_importance_is_not_finite_has_diverged_and_keeps_what_it_had(run_of, monkeypatch, wrong):
    learn = training.Learner.learn

    def wrong_after_the_second(self: training.Learner, index: int) -> None:
        if index == 1:
            found = property(lambda plugin: {"weight": torch.tensor([1.0, wrong])})
            monkeypatch.setattr(training.RegularizationPlugin, "importance", found)
        learn(self, index)

    monkeypatch.setattr(training.Learner, "learn", wrong_after_the_second)
    record = perform_and_record(run_of("ewc"), HERE)
    assert record.outcome == "diverged"
    assert "ewc's importance is NaN or infinite" in record.error
    assert len(record.accuracy) == len(record.importance) == len(record.seconds.training) == 1


def test_the_caller_keeps_its_threads_and_its_random_numbers(run_of):
    torch.set_num_threads(2)
    torch.manual_seed(3)
    expected = torch.rand(4, generator=torch.Generator().manual_seed(3))
    perform(run_of(), HERE)
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(("method", "bytes_a_pixel"), [("replay-matched", 4), ("replay-matched-uint8", 1)])
def test_what_replay_holds_is_its_examples_and_nothing_of_the_data_at_hand(run_of, method, bytes_a_pixel):
    five = run_of().benchmark.model_copy(update={"experiences": 5})
    record = perform(run_of(method, benchmark=five), HERE)
    stored = min(record.memory_examples // 5 * 5, 4 * 300 + record.memory_examples // 5)
    example = 64 * bytes_a_pixel + 2 * 8  # its label and task label
    assert record.plugin_memory <= stored * example + 8, "and the mean and standard deviation of a pixel"
    assert record.plugin_memory > 200 * example
    assert record.plugin_scratch == 0


def test_a_run_leaves_no_memory_behind_for_the_next(run_of, monkeypatch):
    build, models = training.build_model, []

    def remembered(*arguments: object) -> torch.nn.Module:
        model = build(*arguments)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(training, "build_model", remembered)
    gc.disable()  # as it is in effect for large objects that are few
    try:
        for _ in range(3):
            perform(run_of("ewc"), HERE)
    finally:
        gc.enable()
    assert [model() is None for model in models[:-1]] == [True, True]
