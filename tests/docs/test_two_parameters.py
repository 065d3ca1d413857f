import importlib.util
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from clreg_plugins import fisher_diagonal

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "two_parameters.py"
spec = importlib.util.spec_from_file_location("two_parameters", EXAMPLE)
example = sys.modules["two_parameters"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)
TASK_A, TASK_B, draw, trajectories = example.TASK_A, example.TASK_B, example.draw, example.trajectories


@pytest.fixture(scope="module")
def result():
    return trajectories()


@pytest.mark.parametrize(
    ("method", "inside"),
    [("no penalty", (False, True)), ("L2", (True, False)), ("EWC", (True, True))],
)
def test_only_ewc_ends_in_both_regions_of_low_error(result, method: str, inside: tuple[bool, bool]):
    """As figure 1 of Kirkpatrick et al. 2017 has it: without penalty A is lost, with L2 B is not learned."""
    errors = result.final_errors(method)
    assert tuple(error <= 1 for error in errors) == inside, (
        f"{method} ends at {result.paths[method][-1]} with error {errors[0]:.3f} on A and {errors[1]:.3f} on B; "
        f"inside means at most 1, expected inside (A, B): {inside}"
    )
    assert min(abs(error - 1) for error in errors) > 0.1, f"{method}: {errors} is too close to 1 to show"


def end_of(strength: float, importance: np.ndarray) -> np.ndarray:
    """Where MSE_B + λ/2 Σ Ω θ² (the anchor is A's optimum, 0) is least."""
    hessian = 2 * TASK_B.curvature()
    return np.linalg.solve(hessian + strength * np.diag(importance), hessian @ TASK_B.optimum)


def test_every_method_ends_where_its_loss_is_least(result):
    fisher = np.diag(TASK_A.curvature())
    ends = {
        "no penalty": end_of(0, fisher),
        "L2": end_of(result.strengths["L2"], np.ones(2)),
        "EWC": end_of(result.strengths["EWC"], fisher),
    }
    for method, end in ends.items():
        distance = np.linalg.norm(result.paths[method][-1] - end)
        assert distance < 2e-3, f"{method} ends at {result.paths[method][-1]}, {distance:.1e} from {end}"


def test_no_strength_would_bring_l2_into_both_regions():
    ends = np.stack([end_of(strength, np.ones(2)) for strength in np.logspace(-4, 4, 2000)])
    worse = np.maximum(TASK_A.error(ends), TASK_B.error(ends))
    assert worse.min() > 1.1, f"L2 reaches {worse.min():.3f} on the worse of the two tasks; inside both is at most 1"


def test_both_penalties_are_as_strong_on_average(result):
    fisher = np.diag(TASK_A.curvature())
    assert result.strengths["L2"] == pytest.approx(result.strengths["EWC"] * fisher.mean(), rel=1e-6)


def test_the_samples_have_the_curvature_that_makes_the_region():
    for task in (TASK_A, TASK_B):
        inputs, targets = task.samples().tensors
        np.testing.assert_allclose((inputs.T @ inputs / len(inputs)).numpy(), task.curvature(), atol=1e-12)
        error = torch.mean((inputs @ torch.tensor([[0.3], [-0.7]], dtype=torch.float64) - targets) ** 2)
        assert float(task.error([0.3, -0.7])) == pytest.approx(error.item())
        model = torch.nn.Linear(2, 1, bias=False).double()
        fisher = fisher_diagonal(model, task.samples(), likelihood="gaussian")["weight"].flatten()
        np.testing.assert_allclose(fisher.numpy(), np.diag(task.curvature()), rtol=1e-6)
        long, short = task.half_axes
        tip = np.array([np.cos(np.deg2rad(task.angle)), np.sin(np.deg2rad(task.angle))])
        assert task.error(task.optimum + long * tip) == pytest.approx(1)
        assert task.error(task.optimum + short * tip[::-1] * [-1, 1]) == pytest.approx(1)


def test_all_methods_start_on_task_b_from_the_same_point(result):
    for method, path in result.paths.items():
        np.testing.assert_array_equal(path[0], result.before[-1], err_msg=method)
        assert path.shape == result.before.shape, method


def test_the_same_drawing_twice_is_the_same_bytes(result, tmp_path: Path):
    first, second = tmp_path / "first.svg", tmp_path / "folder" / "second.svg"
    draw(result, first)
    draw(trajectories(), second)
    assert first.read_bytes() == second.read_bytes()
    assert ElementTree.parse(first).getroot().tag.endswith("svg")
