"""Real data (scikit-learn's digits), tiny models and strategies for the tests of the plugins."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from avalanche.benchmarks import nc_benchmark, ni_benchmark
from avalanche.models import IncrementalClassifier, MultiHeadClassifier, MultiTaskModule
from avalanche.training.supervised import Naive
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clreg_plugins import (
    EWCPlugin,
    KFACPlugin,
    KroneckerFactors,
    KroneckerPenalty,
    L2Plugin,
    MASPlugin,
    OnlineEWCPlugin,
    RegularizationPlugin,
    SIPlugin,
    fisher_diagonal,
    kronecker_factors,
    mas_importance,
)
from clreg_plugins.importance.engine.model import named_parameters

Tensors = dict[str, Tensor]

PLUGINS: dict[str, Callable[..., RegularizationPlugin]] = {
    "EWC": lambda **options: EWCPlugin(20.0, **options),
    "OnlineEWC": lambda **options: OnlineEWCPlugin(20.0, gamma=0.9, **options),
    "KFAC": lambda **options: KFACPlugin(2.0, gamma=0.9, **options),
    "MAS": lambda **options: MASPlugin(1.0, **options),
    "SI": lambda **options: SIPlugin(2.0, **options),
    "L2": lambda **options: L2Plugin(0.1, **options),
}


MEASURES = {
    "EWC": fisher_diagonal,
    "OnlineEWC": fisher_diagonal,
    "KFAC": kronecker_factors,
    "MAS": mas_importance,
}
"""What the plugins that measure an importance on data measure."""


def diagonal_of(importance: Tensors | KroneckerFactors, model: nn.Module) -> Tensors:
    """A copy of an importance by parameter name, of Kronecker factors the diagonal."""
    if not isinstance(importance, KroneckerFactors):
        return {name: value.clone() for name, value in importance.items()}
    penalty, parameters = KroneckerPenalty(), {name: p.detach() for name, p in named_parameters(model).items()}
    penalty.grow(parameters)
    penalty.recenter(importance, parameters)
    return penalty.diagonal()


def measured(plugin_name: str, model: nn.Module, data: Any) -> Tensors:
    """The importance of one experience by functions that need no strategy, of Kronecker factors the diagonal."""
    return diagonal_of(MEASURES[plugin_name](model, data), model)


class Digits(TensorDataset):
    """A TensorDataset with the ``targets`` that Avalanche asks for."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__(x, y)
        self.targets = y.tolist()


@cache
def pixels() -> tuple[Tensor, Tensor]:
    """All 1,797 images, in [0, 1], and their labels."""
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


def digits(n_classes: int = 6, per_class: int = 20, *, image: bool = False, skip: int = 0) -> Digits:
    """``per_class`` images of each of the first classes, class by class."""
    x, y = pixels()
    rows = torch.cat([(y == c).nonzero().flatten()[skip : skip + per_class] for c in range(n_classes)])
    return Digits(x[rows].view(-1, 1, 8, 8) if image else x[rows], y[rows])


def class_incremental(n_experiences: int = 3, *, per_class: int = 20, image: bool = False, **options: Any) -> Any:
    """Two classes an experience, one head."""
    n = 2 * n_experiences
    train, test = digits(n, per_class, image=image), digits(n, 5, image=image, skip=per_class)
    return nc_benchmark(train, test, n_experiences, task_labels=False, shuffle=False, **options)


def task_incremental(n_experiences: int = 3, *, per_class: int = 20) -> Any:
    """Two classes an experience, each experience a task with classes 0 and 1."""
    n = 2 * n_experiences
    train, test = digits(n, per_class), digits(n, 5, skip=per_class)
    return nc_benchmark(
        train, test, n_experiences, task_labels=True, shuffle=False, class_ids_from_zero_in_each_exp=True
    )


def domain_incremental(n_experiences: int = 3, *, per_class: int = 20) -> Any:
    """The same classes in every experience, in new images."""
    train, test = digits(6, per_class), digits(6, 5, skip=per_class)
    return ni_benchmark(train, test, n_experiences, shuffle=True, seed=0, balance_experiences=True)


BENCHMARKS = {"class": class_incremental, "task": task_incremental, "domain": domain_incremental}


def mlp(outputs: int = 6, hidden: int = 12, seed: int = 1) -> nn.Sequential:
    """Two layers, always with the same initial weights."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def cnn(outputs: int = 6) -> nn.Sequential:
    """Convolution, BatchNorm and Dropout."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(36, outputs),
    )


class MultiHead(MultiTaskModule):
    """A head for each task."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.features = nn.Sequential(nn.Linear(64, 12), nn.ReLU())
        self.heads = MultiHeadClassifier(12, initial_out_features=2)

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        """Logits of each sample's head."""
        return self.heads(self.features(x), task_labels)


class Growing(nn.Module):
    """A classifier that gains outputs as classes appear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.features = nn.Sequential(nn.Linear(64, 12), nn.ReLU())
        self.classifier = IncrementalClassifier(12, initial_out_features=2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes so far."""
        return self.classifier(self.features(x))


def strategy_for(
    model: nn.Module,
    plugins: Sequence[Any],
    *,
    kind: type = Naive,
    optimizer: Any = None,
    lr: float = 0.1,
    **options: Any,
) -> Any:
    """A strategy of Avalanche's without logging."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=lr, momentum=0.5)
    defaults = {"train_mb_size": 10, "train_epochs": 1, "eval_mb_size": 50, "evaluator": None}
    options = {"criterion": nn.CrossEntropyLoss(), **defaults, **options}
    return kind(model=model, optimizer=optimizer, plugins=list(plugins), **options)


def train(strategy: Any, stream: Any) -> Any:
    """Train on each experience in turn, by one call each."""
    for experience in stream:
        strategy.train(experience, eval_streams=[])
    return strategy


def parameters_of(model: nn.Module) -> Tensors:
    """A copy of every parameter, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_close(actual: Tensors, expected: Tensors, *, rtol: float = 1e-5, atol: float = 1e-9, what: str = "") -> None:
    """Equal names, and values equal up to ``rtol`` of the largest entry of each tensor."""
    assert set(actual) == set(expected), f"{what} names: {sorted(actual)} but expected {sorted(expected)}"
    for name, want in expected.items():
        got = actual[name]
        assert got.shape == want.shape, f"{what} of {name}: shape {tuple(got.shape)}, expected {tuple(want.shape)}"
        error = (got - want).abs().max().item() if want.numel() else 0.0
        scale = want.abs().max().item() if want.numel() else 0.0
        assert error <= rtol * scale + atol, (
            f"{what} of {name}: off by {error:.3e} where the largest entry is {scale:.3e}"
        )


def assert_identical(actual: Any, expected: Any, path: str = "") -> None:
    """Two nested states are equal to the last bit."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), f"{path}: keys {list(actual)} but expected {list(expected)}"
        for key in expected:
            assert_identical(actual[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, Tensor):
        same = actual.shape == expected.shape and torch.equal(actual, expected)
        assert same, f"{path}: off by {(actual - expected).abs().max() if actual.shape == expected.shape else 'shape'}"
    else:
        assert actual == expected, f"{path}: {actual!r} but expected {expected!r}"


class Counted:
    """Records every consolidation of a plugin: the data, the parameters, the importance measured."""

    def __init__(self, plugin: RegularizationPlugin) -> None:
        self.terms: list[dict[str, Any]] = []
        measure, join = plugin._measure, plugin._consolidate

        def measured(strategy: Any, data: Any) -> Tensors:
            importance = measure(strategy, data)
            experience = strategy.experience
            self.terms.append(
                {
                    "experience": experience,
                    "data": data if data is not None or experience is None else experience.dataset,
                    "anchor": parameters_of(strategy.model),
                    "importance": diagonal_of(importance, strategy.model),
                }
            )
            return importance

        def joined(importance: Tensors, anchor: Tensors) -> None:
            join(importance, anchor)
            self.terms[-1]["total"] = {name: value.clone() for name, value in plugin.importance.items()}

        plugin._measure, plugin._consolidate = measured, joined
