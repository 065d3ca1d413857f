"""What a run needs that does not change its result."""

from dataclasses import dataclass, field
from pathlib import Path

from study.run.tracking import Tracking


@dataclass(frozen=True)
class RunEnvironment:
    """Where a run finds its data and keeps its state.

    Attributes:
        data_root: folder of the data.
        checkpoints: folder of checkpoints; None keeps none.
        tracking: how W&B is used.
        code_folder: of the protocol file, which files of the user's own code are relative to.
    """

    data_root: Path
    checkpoints: Path | None = None
    tracking: Tracking = field(default_factory=lambda: Tracking("disabled"))
    code_folder: Path = Path()
