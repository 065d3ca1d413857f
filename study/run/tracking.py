"""Weights & Biases: settings, history and accuracy matrix of a run, offline by default.

Avalanche's ``WandBLogger`` calls functions that wandb no longer has. This one writes one row for each experience, so
that a resumed run continues with the next row. Torch, Avalanche and wandb are imported only when a run is logged.
"""

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from netrc import NetrcParseError, netrc
from numbers import Real
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from study.errors import StudyError
from study.run.tracked_contents import accuracy_matrix, importance_statistics

if TYPE_CHECKING:
    from torch import Tensor

SUCCEEDED, FAILED, INTERRUPTED = 0, 1, 255  # exit codes; 255 is what wandb itself gives a run ended by Ctrl-C

SETTINGS: dict[str, Any] = {
    "silent": True,
    "console": "off",  # what the program prints is no part of the record
    "program": "clreg-study",  # in place of the path of the script
    "symlink": False,  # runs side by side would fight over "latest-run"
    "disable_git": True,  # the address of a remote may hold credentials; the commit is in the config
    "disable_code": True,
    "save_code": False,
    "label_disable": True,  # would read the script
    "x_disable_meta": True,  # command line, user, host
    "x_disable_machine_info": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "x_transaction_log_flush_interval": 0.1,  # s; a run that is killed loses what was not written yet
    "finish_timeout": 120.0,  # s, when online; what was not sent by then is on disk, for `wandb sync`
}


class TrackingError(StudyError):
    """Runs cannot be tracked as asked."""


@dataclass(frozen=True)
class Tracking:
    """Where runs are tracked.

    Attributes:
        mode: "offline" writes to the folder, "online" also sends to W&B, "disabled" does nothing.
        folder: parent of wandb's folder ``wandb``, made if needed.
    """

    mode: Literal["offline", "online", "disabled"] = "offline"
    folder: Path = Path()


def check_tracking(tracking: Tracking) -> None:
    """Check before training whether runs can be tracked, without a prompt or the network.

    Raises:
        TrackingError: the folder cannot be written to, or the mode is "online" and there is no API key.
    """
    if tracking.mode == "disabled":
        return
    try:
        tracking.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=tracking.folder):
            pass
    except OSError as error:  # wandb would go on in the system's folder for temporary files
        raise TrackingError(
            f"W&B's folder {tracking.folder} cannot be written to ({error.strerror or error}); "
            "name another, or use --wandb disabled"
        ) from error
    if tracking.mode == "online" and not _has_key():
        raise TrackingError(
            "there is no API key for W&B; run `wandb login` or set WANDB_API_KEY, or use --wandb offline and "
            "`wandb sync` later"
        )


def _has_key() -> bool:
    """Whether the environment, wandb's settings file or netrc holds a key: where `wandb login` puts it."""
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    settings = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser() / "settings"
    if settings.is_file() and "api_key" in settings.read_text(encoding="utf-8"):
        return True
    try:
        host = urlsplit(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url).hostname
        return netrc(Path(os.environ.get("NETRC", "~/.netrc")).expanduser()).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False


class WandbLogger:
    """A logger for Avalanche's evaluator that writes one run to W&B, with what the study adds.

    A failure of wandb gives one warning and never ends training.

    Args:
        tracking: where; mode "disabled" does nothing.
        run_id: W&B's id. A run of this id is continued: online in place; offline in a second folder, which
            ``wandb sync`` joins to the first.
        name, group, job_type: shown in W&B; the group is the protocol, the job type the method.
        config: all that determines the run, as JSON; stored as it is, so no secrets.
    """

    def __init__(
        self, tracking: Tracking, *, run_id: str, name: str, group: str, job_type: str, config: Mapping[str, Any]
    ) -> None:
        self._tracking = tracking
        self._run: Any = None
        self._failed = False
        self._metrics: dict[str, float] = {}  # Avalanche's, of the row to come
        self._experience: int | None = None  # in training, and without its row yet
        if tracking.mode == "disabled":
            return
        _leave_service_of_parent()
        import wandb
        from avalanche.logging import BaseLogger

        BaseLogger.register(WandbLogger)  # a base class would be imported with this module, which takes seconds
        with self._warning_once():
            self._run = wandb.init(
                id=run_id,
                name=name,
                group=group,
                job_type=job_type,
                config=dict(config),
                project="clreg",
                dir=tracking.folder.resolve(),
                mode=tracking.mode,
                resume="allow",
                reinit="create_new",  # leaves a run of somebody else in this process alone
                settings=wandb.Settings(**SETTINGS),
            )
            self._run.define_metric("experience")
            self._run.define_metric("*", step_metric="experience")
        if self._run is None:
            _abandon_service()

    def log_metrics(self, metric_values: list[Any]) -> None:
        from avalanche.logging import BaseLogger

        BaseLogger.log_metrics(self, metric_values)

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        """Add a number to the row of the experience; the last value of a name counts.

        Images and weights are left out for size, and ``x_plot`` since it counts iterations.
        """
        if self._run is not None and (isinstance(value, Real) or getattr(value, "shape", None) == ()):
            self._metrics[name] = float(value)

    def before_training_exp(self, strategy: Any, metric_values: list[Any], **kwargs: Any) -> None:
        """Write the previous row if ``after_experience`` was not called."""
        self._write_metrics()
        self._experience = int(strategy.experience.current_experience)

    def after_experience(
        self,
        experience: int,
        *,
        accuracy: Sequence[float],
        loss: Sequence[float],
        training_loss: float,
        seconds: Mapping[str, float],
        importance: "Mapping[str, Tensor] | None",
    ) -> None:
        """Write one row of the history, with Avalanche's metrics since the last one.

        Args:
            experience: index of the latest experience, the row's step.
            accuracy, loss: shape (T,), on every experience.
            training_loss, seconds: as in the record.
            importance: Ω by parameter name; None for methods without.
        """
        if self._run is None:
            return
        row = {
            "experience": experience,
            "average_accuracy": fmean(accuracy[: experience + 1]),
            "training_loss": training_loss,
            **{f"accuracy/experience_{i}": value for i, value in enumerate(accuracy)},
            **{f"loss/experience_{i}": value for i, value in enumerate(loss)},
            **{f"seconds/{name}": value for name, value in seconds.items()},
            **importance_statistics(importance or {}),
        }
        self._write(experience, {**self._metrics, **row})

    def finish(self, *, outcome: str, accuracy: Sequence[Sequence[float]], summary: Mapping[str, Any]) -> None:
        """Add the summary and the accuracy matrix, shape (K, T) with K ≥ 0, and end the run.

        W&B shows any ``outcome`` but "finished" as failed.
        """
        if self._run is None:
            return
        self._write_metrics()
        finished = outcome == "finished"
        with self._warning_once():
            self._run.summary.update({"outcome": outcome, **self._metrics, **summary})
            if finished and accuracy:
                self._run.log(accuracy_matrix(accuracy), commit=True)
            elif accuracy:  # a failed run may be resumed, and its next row is that of an experience
                self._run.summary.update(accuracy_matrix(accuracy))
        self._end(SUCCEEDED if finished else FAILED)

    def close(self) -> None:
        """End without an outcome, as on an interrupt; the run can be resumed under its id."""
        if self._run is not None:
            self._write_metrics()
            self._end(INTERRUPTED)

    def _write_metrics(self) -> None:
        if self._run is not None and self._experience is not None and self._metrics:
            self._write(self._experience, {**self._metrics, "experience": self._experience})

    def _write(self, experience: int, row: dict[str, float]) -> None:
        self._metrics, self._experience = {}, None
        with self._warning_once():
            # committed at once: a row that waits for more of its step is lost if the run is killed
            self._run.log(row, step=experience, commit=True)

    def _end(self, exit_code: int) -> None:
        with self._warning_once():
            self._run.finish(exit_code=exit_code)
        self._run = None
        if self._failed:
            _abandon_service()

    @contextmanager
    def _warning_once(self) -> Iterator[None]:
        try:
            with _surroundings(self._tracking):
                yield
        except Exception as error:  # of any kind: a full disk, a killed service, no network
            message = f"W&B failed, the run goes on without ({type(error).__name__}: {error})"
            if not self._failed:
                warnings.warn(message, RuntimeWarning, stacklevel=4)
            self._failed = True


def _leave_service_of_parent() -> None:
    """Use a service of this process: a parent's, which the environment names, keeps a killed run's id in use."""
    if f"-{os.getpid()}-" not in os.environ.get("WANDB_SERVICE", ""):
        os.environ.pop("WANDB_SERVICE", None)


def _abandon_service() -> None:
    """Stop wandb's service, which may be dead, so that the next run starts a new one."""
    import wandb

    with suppress(Exception, SystemExit):  # teardown exits where the service did not end well
        wandb.teardown()


@contextmanager
def _surroundings(tracking: Tracking) -> Iterator[None]:
    """Set the environment variables that wandb reads, and undo its changes to ``sys``."""
    folder = str(tracking.folder.resolve() / "wandb")  # for tables and logs, too, which would go to the home directory
    ours = {"WANDB_SILENT": "true", "WANDB_DATA_DIR": folder, "WANDB_CACHE_DIR": folder}
    if tracking.mode == "offline":
        ours["WANDB_ERROR_REPORTING"] = "false"  # otherwise wandb reports on its use over the network, offline too
    before = {name: os.environ.get(name) for name in ours}
    hooks = sys.exit, sys.excepthook  # wandb's own print every exception once more
    os.environ.update(ours)
    try:
        yield
    finally:
        sys.exit, sys.excepthook = hooks
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})
