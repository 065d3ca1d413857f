"""Named tensors in one buffer for each device and type, so that arithmetic on all of them is one kernel."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 16
"""Each tensor starts at a multiple of this many entries: vectorised kernels read 16 bytes or more at a time."""

Kind = tuple[torch.device, torch.dtype]


class Place(NamedTuple):
    """Shape, device and type of a tensor."""

    shape: torch.Size
    device: torch.device
    dtype: torch.dtype


class FlatTensors(Mapping[str, Tensor]):
    """A mapping of names to tensors that are views into ``buffers``.

    Args:
        places: by name, in the order of the views. The tensors start as zeros.

    Attributes:
        places: as given. The buffers of two objects fit each other entry by entry if they share one ``places``.
        buffers: one contiguous tensor of one dimension for each device and type, with zeros between views.
    """

    def __init__(self, places: Mapping[str, Place]) -> None:
        self.places = places
        self._views: dict[str, Tensor] = {}
        starts: dict[str, int] = {}
        sizes: dict[Kind, int] = {}
        for name, (shape, *kind) in places.items():
            starts[name] = sizes.get(tuple(kind), 0)
            sizes[tuple(kind)] = starts[name] - (-shape.numel() // ALIGNMENT) * ALIGNMENT
        self.buffers = {kind: torch.zeros(size, device=kind[0], dtype=kind[1]) for kind, size in sizes.items()}
        for name, (shape, *kind) in places.items():
            buffer = self.buffers[tuple(kind)]
            self._views[name] = buffer[starts[name] : starts[name] + shape.numel()].view(shape)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "FlatTensors":
        """A copy of named tensors, on their devices and of their types."""
        return cls({}).grown({name: Place(t.shape, t.device, t.dtype) for name, t in tensors.items()}, tensors)

    def grown(self, places: Mapping[str, Place], fill: Mapping[str, Tensor] | None = None) -> "FlatTensors":
        """A copy in other places. Old values fill the leading corner of each tensor; the rest is ``fill``.

        Args:
            places: for each name at least the size of its old one, on any device and of any type.
            fill: values of what is new, by name; 0 by default.
        """
        flat = FlatTensors(places)
        for name, view in flat.items():
            if fill is not None and name in fill:
                view.copy_(fill[name])
            if name in self:
                view[tuple(slice(0, size) for size in self[name].shape)] = self[name].to(view.device)
        return flat

    def copies(self) -> dict[str, Tensor]:
        """Each tensor in memory of its own, in a plain dict."""
        return {name: view.clone() for name, view in self.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __reduce__(self) -> tuple[Any, ...]:
        # a class, which weights_only allows; not the views, each of which would pickle a whole buffer
        return FlatTensors, ({},), self.copies()

    def __setstate__(self, tensors: Mapping[str, Tensor]) -> None:
        vars(self).update(vars(FlatTensors.of(tensors)))  # on the devices that they were loaded to
