"""Named tensors in one buffer for each device and type, so that arithmetic on all of them is one kernel."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 16
"""Entries to which the start of a tensor is rounded up: vectorised kernels read 16 bytes or more at a time."""


class Place(NamedTuple):
    """What a named tensor needs: its shape, device and type."""

    shape: torch.Size
    device: torch.device
    dtype: torch.dtype


def place_of(tensor: Tensor) -> Place:
    """The shape, device and type of a tensor."""
    return Place(tensor.shape, tensor.device, tensor.dtype)


class FlatTensors(Mapping[str, Tensor]):
    """A mapping of names to tensors that are views into ``buffers``.

    Args:
        places: by name. The tensors start as zeros.

    Attributes:
        places: as given. Two objects with equal places have buffers that fit each other entry by entry.
        buffers: one contiguous tensor of one dimension for each device and type. Between views it holds zeros.
    """

    def __init__(self, places: Mapping[str, Place]) -> None:
        self.places = places
        sizes: dict[tuple[torch.device, torch.dtype], int] = {}
        for place in self.places.values():
            kind = (place.device, place.dtype)
            sizes[kind] = sizes.get(kind, 0) + _padded(place)
        self.buffers = {kind: torch.zeros(size, device=kind[0], dtype=kind[1]) for kind, size in sizes.items()}
        self._views = self._make_views()

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "FlatTensors":
        """A copy of named tensors."""
        flat = cls({name: place_of(tensor) for name, tensor in tensors.items()})
        for name, tensor in tensors.items():
            flat[name].copy_(tensor)
        return flat

    def grown(self, places: Mapping[str, Place], fill: Mapping[str, Tensor] | None = None) -> "FlatTensors":
        """A copy in other places: what was there stands in the leading corner of each tensor, the rest is ``fill``.

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
        """Each tensor in memory of its own."""
        return {name: view.clone() for name, view in self.items()}

    def _make_views(self) -> dict[str, Tensor]:
        views, ends = {}, dict.fromkeys(self.buffers, 0)
        for name, place in self.places.items():
            kind = (place.device, place.dtype)
            start, ends[kind] = ends[kind], ends[kind] + _padded(place)
            views[name] = self.buffers[kind][start : start + place.shape.numel()].view(place.shape)
        return views

    def __getitem__(self, name: str) -> Tensor:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __getstate__(self) -> dict[str, Any]:
        return {"places": self.places, "buffers": self.buffers}  # views would be pickled as so many whole buffers

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._views = self._make_views()


def _padded(place: Place) -> int:
    return -(-place.shape.numel() // ALIGNMENT) * ALIGNMENT
