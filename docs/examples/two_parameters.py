"""The idea in one picture: figure 1 of Kirkpatrick et al. 2017, with two real parameters and the real plugins.

``python docs/examples/two_parameters.py FILE.svg`` draws it.
"""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.style
import numpy as np
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from torch import nn
from torch.utils.data import TensorDataset

from clreg_plugins import EWCPlugin, L2Plugin, RegularizationPlugin, fisher_diagonal

STEPS = 200
LEARNING_RATE = 0.2
START = (-2.2, -1.6)

EWC_LAMBDA = 2.0
"""The mean squared error is twice the negative log-likelihood: with 2, the penalty weighs like task A's own loss."""


@dataclass(frozen=True)
class Task:
    """Linear regression with two weights, ``y = θ*ᵀx`` without noise, whose mean squared error is a quadratic.

    The region of low error, ``error(θ) ≤ 1``, is an ellipse around θ*.

    Attributes:
        optimum: θ*, where the error is 0.
        half_axes: of the region of low error, the long one first.
        angle: of its long axis from the first parameter's, in degrees.
    """

    optimum: tuple[float, float]
    half_axes: tuple[float, float]
    angle: float

    def curvature(self) -> np.ndarray:
        """``E[x xᵀ]``, shape (2, 2): what makes the region as it is. Half the Hessian of the mean squared error."""
        radians = np.deg2rad(self.angle)
        axes = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
        return axes @ np.diag(np.array(self.half_axes) ** -2.0) @ axes.T

    def error(self, parameters: np.ndarray) -> np.ndarray:
        """The mean squared error at parameters of shape (..., 2); shape (...)."""
        distance = np.asarray(parameters) - self.optimum
        return np.einsum("...i,ij,...j->...", distance, self.curvature(), distance)

    def samples(self, count: int = 16) -> TensorDataset:
        """Inputs of shape (count, 2) on an ellipse, so that their second moment is exact, and their targets."""
        angles = 2 * np.pi * np.arange(count) / count
        circle = np.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        inputs = circle @ np.linalg.cholesky(self.curvature()).T
        return TensorDataset(torch.tensor(inputs), torch.tensor(inputs @ np.array(self.optimum))[:, None])


TASK_A = Task(optimum=(0.0, 0.0), half_axes=(3.2, 0.8), angle=85)
TASK_B = Task(optimum=(1.8, 2.2), half_axes=(2.6, 1.2), angle=145)


@dataclass(frozen=True)
class Trajectories:
    """Where training went.

    Attributes:
        tasks: A and B, in the order in which they were trained on.
        before: parameters after every step on task A, shape (steps + 1, 2); the same for all methods.
        paths: by method ("no penalty", "L2", "EWC"), parameters after every step on task B, shape (steps + 1, 2).
        strengths: λ of "L2" and "EWC".
    """

    tasks: tuple[Task, Task]
    before: np.ndarray
    paths: dict[str, np.ndarray]
    strengths: dict[str, float]

    def final_errors(self, method: str) -> tuple[float, float]:
        """Mean squared error on tasks A and B at the end; at most 1 inside a task's region of low error."""
        return tuple(float(task.error(self.paths[method][-1])) for task in self.tasks)


def trajectories() -> Trajectories:
    """Train on task A, then on task B: without penalty, with L2 and with EWC, by gradient descent.

    Each method is clreg's plugin in Avalanche's ``Naive``. L2 is as strong as EWC on average: its λ is EWC's times
    the mean of the importance that EWC gives to the two parameters.

    Source: Kirkpatrick et al. 2017, figure 1, which is a sketch; the two tasks are ours.
    """
    importance = fisher_diagonal(_model(), TASK_A.samples(), likelihood="gaussian")
    strengths = {"L2": EWC_LAMBDA * float(importance["weight"].mean()), "EWC": EWC_LAMBDA}
    plugins: dict[str, list[RegularizationPlugin]] = {
        "no penalty": [],
        "L2": [L2Plugin(strengths["L2"])],
        "EWC": [EWCPlugin(strengths["EWC"], fisher="exact")],
    }
    trained = {method: _train([TASK_A, TASK_B], chosen) for method, chosen in plugins.items()}
    return Trajectories(
        tasks=(TASK_A, TASK_B),
        before=trained["no penalty"][0],
        paths={method: on_b for method, (_, on_b) in trained.items()},
        strengths=strengths,
    )


class _Recorder(SupervisedPlugin, supports_distributed=True):
    """Notes the two parameters before and after every step, an experience a list."""

    def __init__(self) -> None:
        super().__init__()
        self.experiences: list[list[np.ndarray]] = []

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.experiences.append([_parameters(strategy.model)])

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        self.experiences[-1].append(_parameters(strategy.model))


def _parameters(model: nn.Linear) -> np.ndarray:
    return model.weight.detach().flatten().numpy().copy()


def _model() -> nn.Linear:
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    with torch.no_grad():
        model.weight += torch.tensor(START)
    return model


def _train(tasks: Sequence[Task], plugins: Sequence[RegularizationPlugin]) -> list[np.ndarray]:
    """The parameters' path in each task, shape (steps + 1, 2) each."""
    model, recorder = _model(), _Recorder()
    datasets = [task.samples() for task in tasks]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No loggers specified")  # as intended
        evaluator = EvaluationPlugin(loggers=[])
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=LEARNING_RATE),
        criterion=nn.MSELoss(),
        train_mb_size=len(datasets[0]),
        train_epochs=STEPS,
        plugins=[*plugins, recorder],
        evaluator=evaluator,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the order of a sum decides its last bits
        for experience in benchmark_from_datasets(train=[AvalancheDataset([d]) for d in datasets]).train_stream:
            strategy.train(experience, eval_streams=[])
    return [np.stack(path) for path in recorder.experiences]


# ------------------------------------------------------------------------- drawing

# Okabe and Ito's colours, which colour-blind readers can tell apart; line styles say the same again. All three set
# out alike, since a penalty has no gradient at its anchor: the wider ones lie below, so that each can be seen.
_LINES = {
    "EWC": {"color": "#D55E00", "linewidth": 4.4, "linestyle": "solid"},
    "L2": {"color": "#007A59", "linewidth": 2.6, "linestyle": (0, (3.2, 1.2))},
    "no penalty": {"color": "#0072B2", "linewidth": 1.8, "linestyle": (0, (1.2, 1.2))},
}
_LABELS = {"no penalty": (0.1, -0.4), "L2": (0.2, -0.16), "EWC": (0.6, 0.3)}  # from the end of the trajectory


class _Region(NamedTuple):
    label: str
    label_at: tuple[float, float]
    fill: str
    edge: str


_REGIONS = (
    _Region("low error on task A", (0.62, -2.4), "#B5B5B5", "#5A5A5A"),
    _Region("low error\non task B", (2.85, 3.4), "#F6DFA4", "#7F6016"),
)

_STYLE = {"font.family": "DejaVu Sans", "font.size": 11, "svg.fonttype": "path", "svg.hashsalt": "clreg"}


def draw(result: Trajectories, path: str | Path) -> None:
    """Draw the regions of low error and the trajectories as SVG, the same bytes for the same result.

    Args:
        result: what :func:`trajectories` returned.
        path: file to write; its folder is made.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.style.context(["default", _STYLE]):
        _figure(result).savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _figure(result: Trajectories) -> Figure:
    figure = Figure(figsize=(6.25, 5.0), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for region, task in zip(_REGIONS, result.tasks, strict=True):
        _draw_region(axes, region, task)
    axes.plot(*result.before.T, color="#5A5A5A", linewidth=1.2, zorder=3)
    axes.text(*result.before[0] + (0, 0.1), "training on A", ha="center", va="bottom", color="#5A5A5A")
    for method, line in _LINES.items():
        _draw_path(axes, method, result.paths[method], line)
    axes.set(xlim=(-3.4, 4.4), ylim=(-3.5, 4.2), xticks=[], yticks=[], aspect="equal")
    axes.set(xlabel="first parameter", ylabel="second parameter")
    axes.spines[["top", "right"]].set_visible(False)
    strengths = result.strengths
    figure.supxlabel(
        f"EWC: λ = {strengths['EWC']:g}. L2, as strong on average: λ = {strengths['EWC']:g} × EWC's mean importance"
        f" = {strengths['L2']:.2f}.\n"
        "Filled: mean squared error at most 1. Crosses: optima. Arrows: training on B after A.",
        fontsize=9.5,
    )
    return figure


def _draw_region(axes: Axes, region: _Region, task: Task) -> None:
    size = 2 * np.array(task.half_axes)
    for face, edge, alpha, order in ((region.fill, "none", 0.65, 1), ("none", region.edge, 1.0, 2)):
        axes.add_patch(
            Ellipse(task.optimum, *size, angle=task.angle, fc=face, ec=edge, alpha=alpha, zorder=order),
        )
    axes.plot(*task.optimum, marker="+", markersize=9, markeredgewidth=1.6, color=region.edge, zorder=3)
    axes.text(*region.label_at, region.label, va="center", color=region.edge)


def _draw_path(axes: Axes, method: str, path: np.ndarray, line: dict[str, Any]) -> None:
    axes.plot(*path.T, zorder=4, **line)
    # by length along the path: the last steps are too short to have a direction that shows
    distance = np.linalg.norm(path - path[-1], axis=1)
    before_tip = path[np.flatnonzero(distance > 0.15)[-1]]
    head = {
        "arrowstyle": "-|>",
        "mutation_scale": 10 + 3 * line["linewidth"],
        "shrinkA": 0,
        "shrinkB": 0,
        "color": line["color"],
    }
    axes.annotate("", path[-1], before_tip, arrowprops=head, zorder=5)
    axes.text(*path[-1] + _LABELS[method], method, va="center", color=line["color"], weight="bold", zorder=6)


if __name__ == "__main__":
    draw(trajectories(), sys.argv[1] if len(sys.argv) > 1 else "two-parameters.svg")
