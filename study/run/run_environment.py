"""Under which environment runs are performed: nothing here changes what comes of them."""

from dataclasses import dataclass, field
from pathlib import Path

from study.run.tracking import Tracking


@dataclass(frozen=True)
class RunEnvironment:
    """Where a run finds its data and keeps what it goes on from.

    Attributes:
        data_root: folder of the data.
        checkpoints: folder for the checkpoints of runs under way; None keeps none.
        tracking: what W&B is told.
    """

    data_root: Path
    checkpoints: Path | None = None
    tracking: Tracking = field(default_factory=lambda: Tracking("disabled"))
