"""Weights that change outside the optimizer's steps, which a path integral does not see."""

import operator
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from avalanche.training.plugins import EarlyStoppingPlugin
from torch import Tensor

Tensors = Mapping[str, Tensor]


class Fingerprint(NamedTuple):
    """What a parameter held, as one number on its device."""

    shape: torch.Size
    dtype: torch.dtype
    value: Tensor


class Best(NamedTuple):
    """A state that an early stopper keeps, and ω and the weights of that moment."""

    state: Any
    weights: dict[str, Fingerprint]
    omega: dict[str, Tensor]


class OutsideChanges:
    """Notices that weights were restored, averaged or clipped between two steps of the optimizer.

    After each update the versions of the parameters are noted, which count in-place writes. Writes through ``p.data``
    do not count: at the first and the last update of an epoch a fingerprint of the values is noted too. Both are
    compared before the next update and before consolidation. A fingerprint decides where there is one: writing the
    same values is no change. No step waits for a device, unless a version says that there was a write.

    When an ``EarlyStoppingPlugin`` of the strategy keeps the best weights, ω is kept and restored with them.
    Any other change gives one warning per experience. Frozen parameters may change: they have no path.
    """

    def __init__(self) -> None:
        self._versions: dict[str, tuple[int, int]] = {}
        self._fingerprints: dict[str, Fingerprint] = {}
        self._pending: list[tuple[str, Tensor]] = []  # by name, flags that an epoch's end reads
        self._best: dict[int, Best] = {}  # by the id of the plugin that keeps it
        self._updates = 0
        self._length = 0
        self._warned = False

    def begin_epoch(self, strategy: Any) -> None:
        """See how many updates there will be."""
        self._updates, self._length = 0, operator.length_hint(getattr(strategy, "dataloader", ()))

    def look(self, strategy: Any, parameters: Tensors, omega: Tensors, *, wait: bool = False) -> None:
        """Compare the weights with those that the latest update left, and keep or put back ω with an early stopper's.

        Args:
            strategy: the one in training, for its plugins.
            parameters: by name.
            omega: ω by name; changed in place where it is put back.
            wait: wait for the device. Else only where there was a write.
        """
        changed = self._changed(parameters, wait)
        if changed is not None:
            if not self._put_back(parameters, omega):
                self._warn(changed)
            self._note(parameters, closely=True)
        if wait:
            self._settle()
        self._keep_best(strategy, parameters, omega)

    def updated(self, parameters: Tensors) -> None:
        """Note the weights that an update leaves."""
        self._updates += 1
        self._note(parameters, closely=self._updates in (1, self._length))

    def end_epoch(self, parameters: Tensors) -> None:
        """Read what was compared without waiting; note the values if the latest update was not known to be the last."""
        if not self._fingerprints:
            if (changed := self._changed(parameters, wait=True)) is not None:
                self._warn(changed)
            self._note(parameters, closely=True)
        self._settle()

    def end_experience(self) -> None:
        """Begin the next path."""
        self._best, self._pending, self._warned = {}, [], False

    def __getstate__(self) -> dict[str, Any]:
        return vars(OutsideChanges())

    # --------------------------------------------------------------------------------------

    def _note(self, parameters: Tensors, *, closely: bool) -> None:
        self._versions = {name: (id(p), p._version) for name, p in parameters.items() if p.requires_grad}
        self._fingerprints = _fingerprints(parameters) if closely else {}

    def _changed(self, parameters: Tensors, wait: bool) -> str | None:
        """The name of a parameter that has changed since it was noted, if that is known by now."""
        seen = {name: (id(p), p._version) for name, p in parameters.items() if name in self._versions}
        written = [name for name, version in seen.items() if version != self._versions[name]]
        if not self._fingerprints:  # another tensor under a known name has no version to compare
            return next((name for name in written if seen[name][0] == self._versions[name][0]), None)
        if written or wait:
            return next((name for name, differs in _differences(self._fingerprints, parameters) if differs), None)
        self._pending += _differences(self._fingerprints, parameters)
        return None

    def _settle(self) -> None:
        pending, self._pending = self._pending, []
        if (changed := next((name for name, differs in pending if differs), None)) is not None:
            self._warn(changed)

    def _keep_best(self, strategy: Any, parameters: Tensors, omega: Tensors) -> None:
        for plugin in getattr(strategy, "plugins", ()):
            if isinstance(plugin, EarlyStoppingPlugin):
                known = self._best.get(id(plugin))
                if known is None or known.state is not plugin.best_state:
                    kept = {name: value.clone() for name, value in omega.items()}
                    self._best[id(plugin)] = Best(plugin.best_state, _fingerprints(parameters), kept)

    def _put_back(self, parameters: Tensors, omega: Tensors) -> bool:
        """Put ω back if the weights are those of an early stopper's best state, one by one."""
        shapes = {name: p.shape for name, p in parameters.items() if p.requires_grad and p.numel()}
        for best in self._best.values():
            if shapes == {name: kept.shape for name, kept in best.weights.items()} and not any(
                differs for _, differs in _differences(best.weights, parameters)
            ):
                for name, value in best.omega.items():
                    omega[name].copy_(value)
                return True
        return False

    def _warn(self, name: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"weights changed outside the optimizer's steps ({name!r} among them). ω keeps the optimizer's whole "
                "path, and Δ is the change to the weights as they are now. To take ω back to earlier weights, load "
                "the state_dict() that the plugin had at them",
                stacklevel=3,
            )


def _fingerprints(parameters: Tensors) -> dict[str, Fingerprint]:
    return {
        name: Fingerprint(p.shape, p.dtype, _fingerprint(p.detach()))
        for name, p in parameters.items()
        if p.requires_grad and p.numel()
    }


def _fingerprint(values: Tensor) -> Tensor:
    """The sum of the entries' bits, as integers, row r weighted by r + 1: exact in any order of summation."""
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    bits = values.view(integer)
    rows = bits.reshape(len(bits) if bits.dim() else 1, -1).sum(1)
    return (rows * torch.arange(1, len(rows) + 1, device=rows.device)).sum()


def _differences(noted: Mapping[str, Fingerprint], parameters: Tensors) -> Iterator[tuple[str, Tensor]]:
    """Whether each parameter differs from what was noted, in the leading corner of one that has grown."""
    for name, (shape, dtype, value) in noted.items():
        if name in parameters:
            corner = parameters[name].detach()[tuple(slice(0, size) for size in shape)]
            now = _fingerprint(corner.to(dtype))
            yield name, now != value.to(now.device)
