"""Paths of training and their quadratics, on two experiences of a tiny protocol."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from study.errors import ProtocolError
from study.protocol.settings import Model
from study.run.batches import columns_of
from study.run.curvature import DIAGONALS, POINTS, ParameterPath, measure_curvature
from study.run.run_environment import RunEnvironment
from study.run.trainer import Learner

ENVIRONMENT = RunEnvironment(Path())


def measured(*runs, **options):
    return measure_curvature("title", "command", runs, ENVIRONMENT, **options)


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_the_paths_part_where_the_penalty_begins_to_act_and_end_where_training_ends(run_of, scenario):
    runs = [run_of("naive", scenario), run_of("online_ewc", scenario)]
    found = measured(*runs)
    none, ewc = found.paths
    assert (none.run, ewc.run) == tuple(runs)
    assert found.samples == 675
    heads = 2 if scenario == "task" else 1
    assert found.parameters == 64 * 100 + 100 + 100 * 100 + 100 + 101 * 10 // heads
    assert none.iterations == ewc.iterations
    assert (none.iterations[0], none.iterations[-1]) == (1, 21)
    for values in (vars(path)[name] for path in found.paths for name in ("actual", "gauss_newton", "hessian")):
        assert len(values) == len(none.iterations)
    assert none.distance[0] == ewc.distance[0], "no penalty has a gradient at its anchor"
    assert none.distance[-1] > ewc.distance[-1]
    assert none.predicted.keys() == {"kfac", *DIAGONALS}
    assert none.predicted["exact"][0] == ewc.predicted["exact"][0] > 0

    learner = Learner(runs[1], ENVIRONMENT)
    losses = []
    for index in (0, 1):
        learner.learn(index)
        inputs, targets, tasks = columns_of(learner.calls[0].dataset, torch.device("cpu"))
        with torch.no_grad():
            model = learner.state.model.eval()
            outputs = model(inputs, tasks) if scenario == "task" else model(inputs)
            losses.append(float(nn.functional.cross_entropy(outputs, targets)))
    assert ewc.actual[-1] == pytest.approx(losses[1] - losses[0], rel=1e-4)


def test_a_path_keeps_iterations_on_a_logarithmic_scale_and_the_last(run_of):
    learner = Learner(run_of("naive"), ENVIRONMENT)
    path = ParameterPath(["1.weight"])
    learner.strategy.plugins.append(path)
    learner.learn(0)
    kept = list(path.points)
    assert kept == sorted(set(np.geomspace(1, kept[-1], POINTS).round().astype(int).tolist()))
    assert all(set(point) == {"1.weight"} for point in path.points.values())
    assert torch.equal(path.points[kept[-1]]["1.weight"], learner.state.model[1].weight)
    assert not torch.equal(path.points[kept[0]]["1.weight"], learner.state.model[1].weight)


def test_convolutions_have_factors_in_both_conventions(run_of):
    run = run_of("naive", model=Model(name="cnn", hidden=[4, 4]))
    (path,) = measured(run, samples=50).paths
    assert path.predicted.keys() == {"kfac", "kfac-reduce", *DIAGONALS}
    assert path.predicted["kfac"] != path.predicted["kfac-reduce"]


def test_it_is_measured_on_as_many_samples_as_asked_for(run_of):
    some, all_of_them = measured(run_of("naive"), samples=40), measured(run_of("naive"))
    assert some.samples == 40
    assert some.paths[0].distance == all_of_them.paths[0].distance
    assert some.paths[0].gauss_newton != all_of_them.paths[0].gauss_newton


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"seed": 1}, "its first experience ends elsewhere"),
        ({"learning_rate": 1e30}, "loss is nan"),
    ],
)
def test_what_cannot_be_compared_is_named(run_of, second, said):
    run = run_of("online_ewc")
    if "learning_rate" in second:
        second = {"training": run.training.model_copy(update=second)}
    with pytest.raises(ProtocolError, match=said):
        measured(run_of("naive"), run.model_copy(update=second))
