"""What W&B shows of a run's matrices: statistics of Ω, and the accuracy matrix."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

QUANTILES = {"median": 0.5, "quantile_90": 0.9, "quantile_99": 0.99}
SAMPLE = 2**17  # at most this many values of Ω, evenly spaced, give its quantiles


def importance_statistics(importance: "Mapping[str, Tensor]") -> dict[str, float]:
    """Mean, maximum, share of zeros and quantiles of Ω, by parameter and in total."""
    import torch

    values = {name: omega.detach().float().flatten().cpu() for name, omega in importance.items() if omega.numel()}
    if values:
        values["total"] = torch.cat(list(values.values()))
    statistics = {}
    for name, omega in values.items():
        sample = omega[:: -(-len(omega) // SAMPLE)]
        quantiles = sample.quantile(torch.tensor(list(QUANTILES.values()))).tolist()
        numbers = {"mean": omega.mean(), "max": omega.max(), "zeros": 1 - omega.count_nonzero() / len(omega)}
        numbers |= dict(zip(QUANTILES, quantiles, strict=True))
        statistics |= {f"importance/{name}/{key}": float(value) for key, value in numbers.items()}
    return statistics


def accuracy_matrix(accuracy: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The accuracy matrix, shape (K, T), as a table and an image."""
    import wandb

    columns = ["after experience", *(f"experience {i}" for i in range(len(accuracy[0])))]
    table = wandb.Table(columns=columns, data=[[k, *row] for k, row in enumerate(accuracy)])
    return {"accuracy_matrix": table, "accuracy_heat_map": wandb.Image(_heat_map(accuracy))}


def _heat_map(accuracy: Sequence[Sequence[float]]) -> "Figure":
    """The accuracy matrix as a figure, drawn without pyplot's global state."""
    from matplotlib.figure import Figure

    rows, columns = len(accuracy), len(accuracy[0])
    width, height = 0.6 * columns + 1.0, 0.6 * rows + 0.8  # inches: cells, and room for the labels
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.8 / width, 0.6 / height, 0.6 * columns / width, 0.6 * rows / height))
    axes.set(xlabel="accuracy on experience", ylabel="after experience", xticks=range(columns), yticks=range(rows))
    axes.imshow(accuracy, vmin=0, vmax=1)
    for k, row in enumerate(accuracy):
        for i, value in enumerate(row):
            axes.text(i, k, f"{value:.2f}", ha="center", va="center", color="black" if value > 0.6 else "white")
    return figure
