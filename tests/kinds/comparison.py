"""What the tests of kinds compare: numbers with a reference, or numbers and an error; small streams to train on."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.training import Naive
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clreg_plugins import fisher_diagonal, mas_importance
from tests import oracles

Tensors = dict[str, Tensor]
Outputs = Callable[[nn.Module, Tensor], Tensor]


def plain(model: nn.Module, x: Tensor) -> Tensor:
    """The model's output."""
    return model(x)


def expected(
    model: nn.Module, x: Any, variant: str = "exact", y: Any = None, outputs: Outputs = plain, **options: Any
) -> Tensors:
    """The Fisher of one label a sample, or MAS, from one sample at a time in float64.

    Args:
        x: the samples, each without its dimension: a tensor, or a list of tensors of unlike lengths.
        outputs: how the model is called on one sample with its dimension.
    """

    def of_sample(model: nn.Module, n: int) -> Tensor:
        one = x[n][None]
        z = outputs(model, one.double() if one.is_floating_point() else one)
        return z.reshape(1, -1)

    if variant == "mas":
        return oracles.mas_of(model, of_sample, len(x))
    targets = None if y is None else [torch.as_tensor(label).view(1) for label in y]
    return oracles.fisher_at_positions(model, of_sample, len(x), variant=variant, targets=targets, **options)


def measure(model: nn.Module, data: Any, variant: str = "exact", **options: Any) -> Any:
    """``mas_importance`` for the variant "mas", else ``fisher_diagonal``."""
    if variant == "mas":
        return mas_importance(model, data, **options)
    return fisher_diagonal(model, data, variant=variant, **options)


def assert_right(got: Tensors, want: Tensors, tolerance: float = 1e-4) -> None:
    """Each tensor within ``tolerance`` of its largest entry; one that is negligible compared with the others passes."""
    assert set(got) == set(want), f"names differ: {set(got) ^ set(want)}"
    of_model = max(float(value.abs().max()) for value in want.values() if value.numel())
    assert of_model > 0, "the reference is zero everywhere, which tells nothing"
    for name, value in want.items():
        assert got[name].shape == value.shape, f"{name}: shape {tuple(got[name].shape)}, not {tuple(value.shape)}"
        off = float((got[name].detach().double() - value.double()).abs().max())
        scale = float(value.abs().max())
        path = getattr(got, "paths", {}).get(name, "")
        noise = 1e-6 if scale < 1e-9 * of_model else 1e-9  # of a true 0, float32 computes what terms leave that cancel
        assert off <= tolerance * scale + noise * of_model, (
            f"{name} by {path or '?'}: off by {off:.3g} where the largest entry is {scale:.3g}; sums "
            f"{float(got[name].sum()):.6g}, not {float(value.sum()):.6g}"
        )


def assert_right_or_refused(run: Callable[[], Tensors], want: Tensors, tolerance: float = 1e-4) -> None:
    """A number that comes out is right, or a ValueError came out instead."""
    try:
        got = run()
    except ValueError as error:
        if len(str(error)) < 20:
            raise AssertionError(f"an error that explains nothing: {error!r}") from error
        return
    assert_right(got, want, tolerance)


# ------------------------------------------------------------------ streams


def stream(
    n: int = 24, *, experiences: int = 2, classes: int = 3, labels: Callable[[Tensor], Tensor] = lambda y: y
) -> tuple[Any, list[tuple[Tensor, Tensor]]]:
    """A benchmark of Gaussian classes in six dimensions, and each experience's inputs and labels."""
    generator, parts, samples = torch.Generator().manual_seed(0), [], []
    for experience in range(experiences):
        y = torch.arange(n) % classes
        x = torch.randn(n, 6, generator=generator) + (2.0 - 4.0 * experience) * F.one_hot(y, 6)
        y = labels(y)
        data = TensorDataset(x, y)
        data.targets = y.tolist()
        parts.append(as_classification_dataset(data))
        samples.append((x, y))
    return benchmark_from_datasets(train=parts, test=parts), samples


def strategy_of(
    model: nn.Module, plugins: list[Any], kind: type = Naive, criterion: Any = None, lr: float = 0.05, **options: Any
) -> Any:
    """A strategy without logging."""
    return kind(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr),
        criterion=criterion or nn.CrossEntropyLoss(),
        train_mb_size=12,
        plugins=plugins,
        evaluator=None,
        **options,
    )


def mlp(outputs: int = 3) -> nn.Sequential:
    """Two layers for the inputs of :func:`stream`."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, outputs))
