"""What is checked before the first run, and tracking that is off."""

import pickle
import re
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from study.run.tracking import Tracking, TrackingError, WandbLogger, check_tracking
from tests.study.run.tracking.offline import ABOUT, ACCURACY, CONFIG, KEY, after


def test_disabled_writes_nothing_and_needs_no_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # its import would fail
    tracking = Tracking("disabled", folder=tmp_path / "tracked")
    check_tracking(tracking)
    logger = WandbLogger(tracking, config=CONFIG, **ABOUT)
    logger.log_single_metric("accuracy", 0.5, 0)
    logger.before_training_exp(SimpleNamespace(experience=SimpleNamespace(current_experience=0)), [])
    after(logger, 0)
    logger.finish(outcome="finished", accuracy=ACCURACY, summary={})
    logger.close()
    assert not tracking.folder.exists()
    assert pickle.loads(pickle.dumps(tracking)) == tracking


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError(f"a connection to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("no_network")
def test_online_without_a_key_says_what_to_do(tmp_path: Path) -> None:
    online = Tracking("online", folder=tmp_path / "tracked")
    with pytest.raises(TrackingError, match=r"no API key.*`wandb login`.*WANDB_API_KEY.*--wandb offline.*`wandb sync`"):
        check_tracking(online)
    check_tracking(Tracking("offline", folder=tmp_path / "tracked"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("place", ["variable", "netrc", "settings"])
def test_online_with_a_key_is_fine(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    if place == "variable":
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    elif place == "netrc":
        monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
        (home / ".netrc").write_text(f"machine wandb.example.org\n  login user\n  password {KEY}\n")
    else:
        (home / ".config" / "wandb").mkdir(parents=True)
        (home / ".config" / "wandb" / "settings").write_text(f"[default]\napi_key = {KEY}\n")
    check_tracking(Tracking("online", folder=tmp_path / "tracked"))


def test_a_key_of_another_form_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "of another form")
    with pytest.raises(TrackingError, match="the API key for W&B cannot be used: "):
        check_tracking(Tracking("online", folder=tmp_path / "tracked"))


def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for mode in ("offline", "online"):
        with pytest.raises(TrackingError, match=re.escape(str(tmp_path / "file" / "tracked")) + ".*cannot be written"):
            check_tracking(Tracking(mode, folder=tmp_path / "file" / "tracked"))
