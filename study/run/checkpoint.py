"""Checkpoints: the whole state of a run after its latest experience, written atomically."""

import hashlib
import io
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from study.atomic import write_atomically
from study.run.result import Progress
from study.run.specification import Run


@cache
def code_hash() -> str:
    """Hash of all source files: a checkpoint is only used by the code that wrote it."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted(path for package in ("clreg_plugins", "study") for path in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


@dataclass(kw_only=True)
class State(Progress):
    """A run after some experiences, pickled as a whole so that nothing is forgotten.

    Attributes:
        model: with its buffers and requires_grad flags.
        plugins: of the strategy in order, with the order of the data and the method's state.
        tracked_as: the run's id in W&B.
        code: hash of the code that wrote it.
        optimizer: its ``state_dict``; None before the first experience.
        random: see :func:`study.run.seeds.generator_states`.
    """

    model: nn.Module
    plugins: list[Any]
    tracked_as: str
    code: str = field(default_factory=lambda: code_hash())
    optimizer: dict[str, Any] | None = None
    random: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """The files of one unfinished run in ``folder``; a folder of None keeps nothing."""

    folder: Path | None
    run: Run

    @property
    def path(self) -> Path:
        return self.folder / f"{self.run.id}.pt"

    def save(self, state: State) -> None:
        """Replace the stored state.

        Raises:
            OSError: the folder is full or cannot be written to.
        """
        if self.folder is not None:
            content = io.BytesIO()
            torch.save(state, content)
            write_atomically(self.path, content.getvalue())

    def load(self) -> State | None:
        """The latest state; None if there is none that can be used."""
        if self.folder is None or not self.path.is_file():
            return None
        try:
            state = torch.load(self.path, weights_only=False)  # our own file, in the study's own folder
        except Exception:  # cut short, or of other code: unpickling raises errors of every kind
            return None
        return state if isinstance(state, State) and vars(state).get("code") == code_hash() else None

    def report(self, experiences: int, of: int, accuracy: float | None) -> None:
        """Write the progress: experiences done and in total, and the average accuracy over those seen, in [0, 1]."""
        if self.folder is not None:
            progress = {"run": str(self.run), "experiences": experiences, "of": of, "accuracy": accuracy}
            write_atomically(self.path.with_suffix(".json"), json.dumps(progress).encode())
