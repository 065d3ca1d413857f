"""Loss, time, memory and importance of a run."""

import gc
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from avalanche.core import BasePlugin, SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from torch import Tensor, nn


class Instruments(SupervisedPlugin, supports_distributed=False):
    """Reads the training loss and the time of the last step, and ends a run that diverges.

    It must be the first plugin, before a penalty is added to the loss and before importance is measured.

    Attributes:
        last_step: ``time.perf_counter()`` after the last training step of the latest experience.
    """

    def __init__(self) -> None:
        super().__init__()
        self.last_step = 0.0
        self._total: Tensor | None = None
        self._steps = 0

    @property
    def training_loss(self) -> float:
        """The mean loss over the steps of the latest experience, without penalty."""
        return float("nan") if self._total is None else float(self._total) / self._steps

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._total, self._steps = None, 0

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        loss = strategy.loss.detach().double()
        self._total = loss if self._total is None else self._total + loss
        self._steps += 1

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Check that the loss is finite; FloatingPointError if not."""
        if self._total is not None and not torch.isfinite(self._total).all():
            raise FloatingPointError(f"the training loss became {float(self._total)}; it must stay finite")

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Read the clock and check that the parameters are finite; FloatingPointError if not."""
        if strategy.device.type == "cuda":
            torch.cuda.synchronize()
        self.last_step = time.perf_counter()
        for name, p in strategy.model.named_parameters():
            if not torch.isfinite(p).all():
                raise FloatingPointError(f"parameter {name!r} became NaN or infinite")


class Evaluator(EvaluationPlugin):
    """Avalanche's, for metrics of evaluation alone: none is asked at eight points of every training step."""

    def _nothing(self, strategy: Any, **kwargs: Any) -> None:
        pass

    before_training_iteration = before_forward = after_forward = before_backward = _nothing
    after_backward = before_update = after_update = after_training_iteration = _nothing


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of peak memory, where the system supports it."""
    gc.collect()  # strategy and plugins of an earlier run in this process refer to each other
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return  # not allowed here; the peak is then that of the process so far


def system_bytes(file: str, key: str) -> int | None:
    """An entry of /proc/``file`` in bytes, by the line's ``key``; None if the system does not provide it."""
    try:
        lines = Path("/proc", file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), None)


def peak_memory(device: torch.device) -> int:
    """Peak in bytes: of PyTorch on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    high_water = system_bytes("self/status", "VmHWM")
    if high_water is not None:
        return high_water
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True)
class Held:
    """Bytes of a plugin's tensors: ``state``, which pickles with it, and ``scratch``, which it holds only for speed."""

    state: int
    scratch: int


def sum_of_importance(importance: Mapping[str, Tensor]) -> float:
    """Σ_i Ω_i over all parameters, in float64."""
    return sum(float(omega.sum(dtype=torch.float64)) for omega in importance.values())


def held_bytes(plugin: Any, model: nn.Module) -> Held:
    """Bytes that a plugin holds, each tensor once, without the model's and other plugins' tensors."""
    models = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    state, everything = _sizes(plugin, lambda value: value.__getstate__()), _sizes(plugin, vars)
    in_state = sum(size for pointer, size in state.items() if pointer not in models)
    return Held(in_state, sum(size for pointer, size in everything.items() if pointer not in models | state.keys()))


def _sizes(plugin: Any, contents: Callable[[Any], Any]) -> dict[int, int]:
    """Bytes of each storage reachable from a plugin, by address."""
    packages = {"clreg_plugins", "study", "avalanche", "tests", type(plugin).__module__.partition(".")[0]}
    found: dict[int, int] = {}
    seen: dict[int, Any] = {}  # with the values, which keeps their ids from being used again

    def visit(value: Any) -> None:
        if id(value) in seen or (isinstance(value, BasePlugin) and value is not plugin):
            return
        seen[id(value)] = value
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict | list | tuple | set):
            for item in value.values() if isinstance(value, dict) else value:
                visit(item)
        elif isinstance(value, nn.Module):
            visit(vars(value))
        elif type(value).__module__.partition(".")[0] in packages:
            visit(contents(value))

    visit(plugin)
    return found
