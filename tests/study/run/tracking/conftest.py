"""A process in which W&B was never used, and a logger that writes offline."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wandb

from study.run.tracking import Tracking, WandbLogger
from tests.study.run.tracking.offline import ABOUT, CONFIG


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home without account, and a process in which wandb was never used."""
    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    yield tmp_path / "home"
    wandb.teardown()


@pytest.fixture
def tracking(tmp_path: Path) -> Tracking:
    return Tracking(folder=tmp_path / "tracked")


@pytest.fixture
def open_logger(tracking: Tracking) -> Callable[..., WandbLogger]:
    return lambda **changes: WandbLogger(tracking, config=CONFIG, **ABOUT | changes)
