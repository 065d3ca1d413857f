"""What is in W&B's offline folder is what was logged, and nothing else."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from study.run.tracking import Tracking, WandbLogger
from tests.study.run.tracking.offline import ABOUT, ACCURACY, CONFIG, after, parts


def test_the_record_is_what_was_logged(tracking: Tracking, open_logger: Callable[..., WandbLogger]) -> None:
    logger = open_logger()
    after(logger, 0, 1, 2)
    logger.finish(outcome="finished", accuracy=ACCURACY, summary={"forgetting": 0.2125, "λ": 100.0})
    (part,) = parts(tracking)
    run = part.run
    assert (run.run_id, run.display_name, run.run_group, run.job_type) == tuple(ABOUT.values())
    assert run.project == "clreg"
    assert part.config == CONFIG
    assert part.exit_codes == [0]
    assert part.rows[1] == {
        "experience": 1,
        "average_accuracy": (0.7 + 0.875) / 2,
        "training_loss": 0.25,
        **{f"accuracy/experience_{i}": value for i, value in enumerate(ACCURACY[1])},
        **{f"loss/experience_{i}": value for i, value in enumerate([0.1, 0.2, 0.3])},
        "seconds/training": 2.5,
        "seconds/importance": 0.5,
    }
    assert [row["experience"] for row in part.rows[:3]] == part.steps[:3] == [0, 1, 2]
    assert {"outcome": "finished", "forgetting": 0.2125, "λ": 100.0}.items() <= part.summary.items()
    assert part.summary["average_accuracy"] == pytest.approx((0.6 + 0.75 + 1.0) / 3)


def test_the_accuracy_matrix_is_a_table_and_a_picture(
    tracking: Tracking, open_logger: Callable[..., WandbLogger]
) -> None:
    logger = open_logger()
    after(logger, 0, 1, 2)
    logger.finish(outcome="finished", accuracy=ACCURACY, summary={})
    (part,) = parts(tracking)
    table = json.loads(part.media("table").read_text())
    assert table["columns"] == ["after experience", "experience 0", "experience 1", "experience 2"]
    assert table["data"] == [[k, *row] for k, row in enumerate(ACCURACY)]
    with Image.open(part.media("images")) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert part.summary["accuracy_heat_map.path"] == f"media/images/{part.media('images').name}"
    # cells of 60 pixels from (80, 20) on; read next to the numbers written into them
    shades = [[int(pixels[30 + 60 * k, 90 + 60 * i]) for i in range(3)] for k in range(3)]
    assert np.array_equal(np.argsort(np.ravel(shades), kind="stable"), np.argsort(np.ravel(ACCURACY), kind="stable"))


def test_importance_is_described_by_parameter_and_in_total(
    tracking: Tracking, open_logger: Callable[..., WandbLogger]
) -> None:
    importance = {"a": torch.tensor([[0.0, 4.0], [1.0, 0.0]]), "b.bias": torch.arange(1.0, 7.0)}
    logger = open_logger()
    after(logger, 0)
    after(logger, 1, importance={**importance, "empty": torch.zeros(0)})
    logger.close()
    (part,) = parts(tracking)
    assert not [key for key in part.rows[0] if key.startswith("importance")], "a method without Ω"
    everything = np.concatenate([values.numpy().ravel() for values in importance.values()])
    for name, values in {
        "a": importance["a"].numpy(),
        "b.bias": importance["b.bias"].numpy(),
        "total": everything,
    }.items():
        expected = {
            "mean": values.mean(),
            "max": values.max(),
            "zeros": (values == 0).mean(),
            "median": np.quantile(values, 0.5),
            "quantile_90": np.quantile(values, 0.9),
            "quantile_99": np.quantile(values, 0.99),
        }
        found = {key: part.rows[1].get(f"importance/{name}/{key}") for key in expected}
        assert found == pytest.approx(expected, rel=1e-6), name
    assert sum(key.startswith("importance") for key in part.rows[1]) == 18


def test_quantiles_of_many_importances_come_from_a_sample(
    tracking: Tracking, open_logger: Callable[..., WandbLogger]
) -> None:
    logger = open_logger()
    after(logger, 0, importance={"a": torch.linspace(0, 1, 20_000_001)})  # more than torch's quantile takes
    logger.close()
    row = parts(tracking)[0].rows[0]
    assert row["importance/total/quantile_90"] == pytest.approx(0.9, abs=1e-4)
    assert row["importance/total/max"] == 1.0
