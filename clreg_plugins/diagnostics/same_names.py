"""A check of tensors by name."""

from collections.abc import Mapping

from torch import Tensor

from clreg_plugins.checks import dense, listed, mapping


def same_names_and_shapes(sides: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise ValueError unless all sides, by their names for a message, hold tensors like the first one's."""
    for side, values in sides.items():
        for name, value in mapping(side, values).items():
            dense(f"{side}[{name!r}]", value)
    (first, reference), *others = sides.items()
    if not sum(values.numel() for values in reference.values()):
        raise ValueError(f"{first} has no entries; it needs at least one")
    for side, values in others:
        if missing := [name for name in reference if name not in values]:
            raise ValueError(f"{side} has no {listed(missing)}, but {first} has; both need the same names")
        if extra := [name for name in values if name not in reference]:
            raise ValueError(f"{first} has no {listed(extra)}, but {side} has; both need the same names")
        for name, value in reference.items():
            if value.shape != values[name].shape:
                raise ValueError(
                    f"{name!r} has shape {tuple(value.shape)} in {first}, but {tuple(values[name].shape)} in {side}"
                )
