"""How good a penalty's quadratic is: the first experience's loss along the path of training on the second."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import numpy as np
import torch
from avalanche.core import SupervisedPlugin
from pydantic import Field, model_validator
from torch import Tensor, nn

from clreg_plugins import KroneckerFactors, fisher_diagonal, kronecker_factors, quadratic_picture
from clreg_plugins.importance.engine.data import drawn_rows
from study.errors import ProtocolError
from study.run.batches import Columns, InMemoryLoader, columns_of
from study.run.methods import PASS_BATCH
from study.run.run_environment import RunEnvironment
from study.run.seeds import derived_seed
from study.run.specification import Frozen, Run
from study.run.system import git_commit, processor, versions
from study.run.trainer import Learner, torch_threads

POINTS = 20
"""Parameters that are kept of a path."""

DIAGONALS = ("exact", "sample", "predicted", "empirical", "batched")
FACTORS, REDUCED = "kfac", "kfac-reduce"


class TrainingPath(Frozen):
    """The first experience's loss along one path, at each iteration that is kept.

    Attributes:
        run: with the method that trains.
        iterations: of the second experience, ascending.
        distance, actual, first_order, gauss_newton, hessian, predicted: see
            :class:`clreg_plugins.QuadraticPicture`; the curvatures are the diagonals of the Fisher by variant, and
            "kfac" and, with convolutions, "kfac-reduce".
    """

    run: Run
    iterations: list[int]
    distance: list[float]
    actual: list[float]
    first_order: list[float]
    gauss_newton: list[float]
    hessian: list[float]
    predicted: dict[str, list[float]]

    @model_validator(mode="after")
    def _every_curve_has_each_point(self) -> "TrainingPath":
        curves = [self.distance, self.actual, self.first_order, self.gauss_newton, self.hessian]
        if not self.iterations or {len(c) for c in (*curves, *self.predicted.values())} != {len(self.iterations)}:
            raise ValueError("every curve needs a value for each of the iterations, of which there is at least one")
        allowed = {FACTORS, REDUCED, *DIAGONALS}
        if not {FACTORS, "exact"} <= self.predicted.keys() <= allowed:
            raise ValueError(f"predicted holds {', '.join(self.predicted)}; allowed: {', '.join(sorted(allowed))}")
        return self


class Curvature(Frozen):
    """The paths of several methods from the same parameters.

    Attributes:
        title: of the protocol.
        command: that measures it again.
        paths: one for each method.
        samples: of the first experience's training data.
        parameters: how many the first experience trains.
        ended: UTC, ISO 8601.
        versions, processor, commit: what it ran with.
    """

    title: str
    command: str
    paths: Annotated[list[TrainingPath], Field(min_length=1)]
    samples: int
    parameters: int
    ended: str
    versions: dict[str, str]
    processor: str
    commit: str | None


class ParameterPath(SupervisedPlugin, supports_distributed=False):
    """Keeps the parameters at iterations of an experience that are evenly spaced on a logarithmic scale.

    Args:
        names: of the parameters.

    Attributes:
        points: parameters by iteration, on the CPU.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = set(names)
        self.points: dict[int, dict[str, Tensor]] = {}
        self._iteration = 0
        self._kept: set[int] = set()

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        iterations = strategy.train_epochs * len(strategy.dataloader)
        self._kept = set(np.geomspace(1, iterations, POINTS).round().astype(int).tolist())

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self._iteration += 1
        if self._iteration in self._kept:
            self._keep(strategy.model)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._keep(strategy.model)  # training may have ended early

    def _keep(self, model: nn.Module) -> None:
        self.points[self._iteration] = {
            name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters() if name in self.names
        }


def measure_curvature(
    title: str, command: str, runs: Sequence[Run], environment: RunEnvironment, samples: int | None = None
) -> Curvature:
    """Train two experiences with each method, and compare the first one's loss with its quadratics.

    The curvatures are measured after the first experience, where no method has a penalty yet, so that all paths begin
    at the same parameters. Those that the first experience does not train, such as later heads, are left out.

    Args:
        title, command: for the record.
        runs: of one protocol, scenario and seed, each with another method.
        environment: theirs.
        samples: use that many of the first experience's training data, drawn without replacement; None for all.

    Raises:
        ProtocolError: there is one experience, a run diverges, or a model cannot be differentiated twice or grows.
        DataError: the data is not there.
    """
    paths: list[TrainingPath] = []
    with torch_threads(1):
        for run in runs:
            learner = Learner(run, environment)
            if len(learner.calls) < 2:
                raise ProtocolError(f"{run.protocol} has {len(learner.calls)} experience; allowed: at least 2")
            _learn(learner, 0)
            if not paths:
                model, columns = copy.deepcopy(learner.state.model), _columns(learner, samples)
                anchor = {
                    name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters() if p.requires_grad
                }
                curvatures = _curvatures(run, model, columns)
            elif any(not torch.equal(p.cpu(), anchor[n]) for n, p in _named(learner.state.model, anchor).items()):
                raise ProtocolError(
                    f"{run}: its first experience ends elsewhere; allowed: methods without effect there"
                )
            path = ParameterPath(anchor)
            learner.strategy.plugins.append(path)
            _learn(learner, 1)
            loader = InMemoryLoader(columns, PASS_BATCH)
            try:
                picture = quadratic_picture(model, loader, anchor, path.points.values(), curvatures, unpack=tuple)
            except ValueError as error:
                raise ProtocolError(f"{run}: {error}") from error
            arrays = {name: value.tolist() for name, value in vars(picture).items() if name != "predicted"}
            predicted = {name: value.tolist() for name, value in picture.predicted.items()}
            paths.append(TrainingPath(run=run, iterations=list(path.points), **arrays, predicted=predicted))
    return Curvature(
        title=title,
        command=command,
        paths=paths,
        samples=len(columns[0]),
        parameters=sum(value.numel() for value in anchor.values()),
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        processor=processor(),
        commit=git_commit(),
    )


def _learn(learner: Learner, index: int) -> None:
    try:
        learner.learn(index)
    except FloatingPointError as error:
        raise ProtocolError(f"{learner.run}: {error}") from error


def _named(model: nn.Module, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if name in names}


def _columns(learner: Learner, samples: int | None) -> Columns:
    columns = columns_of(learner.calls[0].dataset, torch.device("cpu"))
    if samples is None:
        return columns
    generator = torch.Generator().manual_seed(derived_seed(learner.run.seed, "importance"))
    rows = drawn_rows(len(columns[0]), samples, generator)
    return [column[rows] for column in columns]


def _curvatures(run: Run, model: nn.Module, columns: Columns) -> dict[str, Mapping[str, Tensor] | KroneckerFactors]:
    options = {"unpack": tuple, "seed": derived_seed(run.seed, "importance")}
    loader = InMemoryLoader(columns, PASS_BATCH)
    found: dict[str, Mapping[str, Tensor] | KroneckerFactors] = {FACTORS: kronecker_factors(model, loader, **options)}
    if any(isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) for module in model.modules()):
        found[REDUCED] = kronecker_factors(model, loader, weight_sharing="reduce", **options)
    for variant in DIAGONALS:
        data = InMemoryLoader(columns, run.training.batch_size) if variant == "batched" else loader
        found[variant] = fisher_diagonal(model, data, variant=variant, **options)
    return found
