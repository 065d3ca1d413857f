"""Checkpoints: the whole state of a run after its latest experience, written atomically.

A file begins with a line that says of which run it is, which code wrote it, and the SHA-256 of the rest. What does not
match is not read at all. The rest is read by ``torch.load(weights_only=True)``, which imports nothing and makes objects
of allowed classes only: those of models and methods, see :func:`_allowed`.
"""

import copyreg
import hashlib
import io
import os
import pickle
import random
import sys
from collections import ChainMap, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from avalanche.core import BasePlugin
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from clreg_plugins.importance.engine.general_path import is_out_of_memory
from study.atomic import write_atomically
from study.run.result import Progress, ProgressReport
from study.run.specification import Run

KIND = "clreg-checkpoint"

PACKAGES = (
    *("clreg_plugins", "torch.nn", "avalanche.models", "avalanche.training.regularization", "avalanche.training.utils"),
    *("study.protocol.settings", "study.run.checkpoint", "study.run.data", "study.run.result"),
)
"""Whose classes may be in a checkpoint, beside modules and plugins: making an object of them does nothing else."""

FUNCTIONS = frozenset(
    (
        *("celu", "cross_entropy", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_softmax"),
        *("logsigmoid", "mish", "mse_loss", "ones", "relu", "relu6", "selu", "sigmoid", "silu", "softmax", "softplus"),
        *("softsign", "tanh", "zeros", "zeros_like"),
    )
)
"""Of ``torch`` and ``torch.nn.functional``: they compute and do nothing else."""


class CheckpointError(OSError):
    """A checkpoint or progress report cannot be written."""


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
    """A run after some experiences, kept as a whole so that nothing is forgotten.

    Attributes:
        model: with its buffers and requires_grad flags.
        plugins: of the strategy in order, with the order of the data and the method's state.
        tracked_as: the run's id in W&B.
        optimizer: its ``state_dict``; None before the first experience.
        random: see :func:`study.run.seeds.generator_states`.
    """

    model: nn.Module
    plugins: list[Any]
    tracked_as: str
    optimizer: dict[str, Any] | None = None
    random: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """The files of one unfinished run in ``folder``; a folder of None keeps nothing.

    Args:
        own_packages: of the user's own code, whose classes may be in a checkpoint too.
    """

    folder: Path | None
    run: Run
    own_packages: frozenset[str] = frozenset()

    @property
    def path(self) -> Path:
        return self.folder / f"{self.run.id}.pt"

    def save(self, state: State) -> None:
        """Replace the stored state; one with a class that is not allowed is not stored, and the user is told.

        Raises:
            CheckpointError: the folder is full or cannot be written to.
        """
        if self.folder is None:
            return
        file = io.BytesIO()
        torch.save(state, file, pickle_module=SimpleNamespace(__name__="pickle", Pickler=_Pickler))
        content = file.getvalue()
        unknown = [name for name, value in self._globals(content).items() if value is None]
        if unknown:
            _say(f"{self.run.label}: after a stop its runs start afresh; no checkpoint can hold {', '.join(unknown)}")
        else:
            _write(self.path, f"{self._header(content)}\n".encode() + content)

    def load(self) -> State | None:
        """The latest state; None if there is none that can be used.

        A file that is damaged or of another run is moved to the folder "unusable", and the user is told.

        Raises:
            RuntimeError, MemoryError: there is not enough memory. The file is kept.
        """
        if self.folder is None or not self.path.is_file():
            return None
        header, _, content = self.path.read_bytes().partition(b"\n")
        kind, run, code, digest = self._header(content).split()
        match header.decode(errors="replace").split():
            case [found, of, by, said] if (found, of, said) == (kind, run, digest):
                if by == code:
                    return self._read(content)
                _say(f"{self.path} was written by other code: {self.run} starts afresh")
            case _:
                self._put_aside("its hash differs")
        return None

    def _header(self, content: bytes) -> str:
        return f"{KIND} {self.run.id} {code_hash()} {hashlib.sha256(content).hexdigest()}"

    def _read(self, content: bytes) -> State | None:
        try:
            known = [(value, name) for name, value in self._globals(content).items() if value is not None]
            with safe_globals(known):
                state = torch.load(io.BytesIO(content), weights_only=True)
            if isinstance(state, State):
                return state
            problem = f"it holds a {type(state).__name__}"
        except Exception as error:  # unpickling raises errors of every kind
            if is_out_of_memory(error):
                raise  # the file may be used when there is more
            problem = " ".join(str(error).split())
        self._put_aside(problem)
        return None

    def _globals(self, content: bytes) -> dict[str, Any]:
        """What ``content`` would import beyond torch's own tensors, by name; None for what is not allowed."""
        names = get_unsafe_globals_in_checkpoint(io.BytesIO(content))
        return {name: _allowed(name, (*PACKAGES, *self.own_packages)) for name in names}

    def _put_aside(self, why: str) -> None:
        aside = self.folder / "unusable" / self.path.name
        aside.parent.mkdir(exist_ok=True)
        os.replace(self.path, aside)
        _say(f"{self.path} cannot be used and is now in {aside.parent}: {self.run} starts afresh ({why})")

    def report(self, experiences: int, of: int, accuracy: float | None) -> None:
        """Write the progress: experiences done and in total, and the average accuracy over those seen, in [0, 1]."""
        if self.folder is not None:
            progress = ProgressReport(run=str(self.run), experiences=experiences, of=of, accuracy=accuracy)
            _write(self.path.with_suffix(".json"), progress.model_dump_json().encode())


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise CheckpointError(error.errno, error.strerror, error.filename) from error


def _allowed(name: str, packages: tuple[str, ...]) -> Any:
    """What a checkpoint may hold by this name; None if nothing.

    A class that is imported already, if it is defined in one of the packages, or is a module or a plugin that is not of
    PyTorch's other packages, some of which run code; or one of a few functions, which a model may have as an attribute.
    What these classes do when they are made, and in ``__setstate__``, is trusted, as the imported code itself is.
    """
    if name in BUILT_INS:
        return BUILT_INS[name]
    module, _, attribute = name.rpartition(".")
    found = vars(sys.modules[module]).get(attribute) if module in sys.modules else None
    if isinstance(found, type):
        defined = f"{found.__module__}."  # where it is defined, not where it is visible
        inside = any(defined.startswith(f"{package}.") for package in packages)
        others = issubclass(found, nn.Module | BasePlugin) and not defined.startswith("torch.")
        return found if inside or others else None
    return found if module == "torch.nn.functional" and attribute in FUNCTIONS else None


def _default_dict(factory: Any, items: Mapping[Any, Any]) -> defaultdict[Any, Any]:
    return defaultdict(factory, items)


def _array(values: torch.Tensor) -> np.ndarray:
    return values.numpy()


def _reduced(array: np.ndarray) -> Any:
    try:
        return _array, (torch.from_numpy(array.copy()),)
    except TypeError:  # text, objects
        return array.__reduce__()


class _Pickler(pickle.Pickler):
    """Pickles some containers as calls, since ``weights_only=True`` fills none but lists, plain dicts and tensors."""

    dispatch_table: ClassVar = ChainMap(
        {
            defaultdict: lambda value: (_default_dict, (value.default_factory, dict(value))),
            deque: lambda value: (deque, (list(value), value.maxlen)),
            np.ndarray: _reduced,
        },
        copyreg.dispatch_table,
    )


def _function_of_torch(owner: Any, name: str) -> Any:
    """In place of ``getattr``, by which functions such as ``torch.zeros`` are pickled."""
    if owner is not torch._C._VariableFunctionsClass or name not in FUNCTIONS:
        raise AttributeError(f"{owner}.{name} is not allowed in a checkpoint")
    return getattr(owner, name)


BUILT_INS = {
    **{f"{kind.__module__}.{kind.__qualname__}": kind for kind in (dict, list, set, frozenset, deque)},
    f"{__name__}._default_dict": _default_dict,
    f"{__name__}._array": _array,
    "random.Random": random.Random,
    "builtins.getattr": _function_of_torch,
    "torch._C._VariableFunctionsClass": torch._C._VariableFunctionsClass,
    "torch._C.Generator": torch.Generator,
}


@cache
def _say(text: str) -> None:
    """Tell the user, once in a process."""
    print(text, file=sys.stderr, flush=True)
