"""The options of an importance pass, once for every signature."""

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from clreg_plugins.checks import boolean, function, one_of, whole
from clreg_plugins.importance.engine.data import Unpack
from clreg_plugins.importance.engine.model import Forward

PATHS = ("auto", "vectorised", "one_at_a_time")


class ReadingOptions(TypedDict, total=False):
    """How an importance reads its data, and what memory it may take.

    Keys:
        n_samples: use that many samples, drawn without replacement (of a DataLoader: its first). Default: all.
        batch_size: of a Dataset, samples read at a time. Default: 256 where the result depends on it (gradients of
            batch means, ``distributed``), which in a plugin is the strategy's ``train_mb_size``; else batches of 256,
            put together up to 1024 samples or 32 MiB of inputs.
        seed: of every random draw of the pass, 0 to 2**63 - 1. Default: 0. The global generators are left as they
            were.
        num_workers: of the DataLoader made for a Dataset, at most 1024. Default: 0.
        max_bytes: bound of the pass's own memory: activations, cotangents and gradients, in addition to the model,
            a copy of it, and the result. At least one sample is taken at a time. Default: 2**30, 1 GiB.
    """

    n_samples: int | None
    batch_size: int | None
    seed: int
    num_workers: int
    max_bytes: int


class PassOptions(ReadingOptions, total=False):
    """All options of :func:`fisher_diagonal` and :func:`mas_importance` that say nothing of what is measured.

    Keys:
        forward: ``(model, inputs, task_labels) -> outputs``, how to call the model. Default: ``model(**inputs)`` for a
            dict, ``model(*inputs)`` for a tuple or list, else ``model(inputs)``, with ``task_labels`` if its forward
            names them; of an output with ``logits``, those.
        unpack: ``batch -> (inputs,)``, ``(inputs, targets)`` or ``(inputs, targets, task_labels)``, what a batch of the
            data holds. Default: a tensor is the inputs; of two parts the second is the targets; a dict has them under
            "labels" or "label"; more parts are an error, except where the data is Avalanche's or the model's forward
            names ``task_labels``: the last part is then the task labels.
        path: "auto" takes a layer's rule where it holds; "vectorised" or "one_at_a_time" forces the general path.
            Default: "auto".
        distributed: share the batches among the processes of ``torch.distributed``; each gets the whole result. The
            data and its order must be the same in all of them.
            Default: False.
    """

    forward: Forward | None
    unpack: Unpack | None
    path: str
    distributed: bool


READING_DEFAULTS: ReadingOptions = {
    "n_samples": None,
    "batch_size": None,
    "seed": 0,
    "num_workers": 0,
    "max_bytes": 2**30,
}
PASS_DEFAULTS: PassOptions = {
    **READING_DEFAULTS,
    "forward": None,
    "unpack": None,
    "path": "auto",
    "distributed": False,
}

_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "n_samples": lambda name, value: whole(name, value, 1, none="all"),
    "batch_size": lambda name, value: whole(name, value, 1, none="chosen for you"),
    "seed": lambda name, value: whole(name, value, 0),
    "num_workers": lambda name, value: whole(name, value, 0, 1024),
    "max_bytes": lambda name, value: whole(name, value, 1),
    "forward": function,
    "unpack": function,
    "path": lambda name, value: one_of(name, value, PATHS),
    "distributed": boolean,
}


def checked(options: Mapping[str, Any], defaults: Mapping[str, Any], caller: str) -> dict[str, Any]:
    """``options`` over ``defaults``, each value checked.

    Args:
        options: what the caller gave by name.
        defaults: :data:`READING_DEFAULTS` or :data:`PASS_DEFAULTS`.
        caller: whose options they are, for the message.

    Raises:
        TypeError: an unknown name.
        ValueError: a value outside what is allowed.
    """
    if unknown := sorted(set(options) - set(defaults)):
        raise TypeError(
            f"{caller}() got an unexpected keyword argument {unknown[0]!r}; its options are {', '.join(defaults)}"
        )
    for name, value in options.items():
        _CHECKS[name](name, value)
    return {**defaults, **options}
