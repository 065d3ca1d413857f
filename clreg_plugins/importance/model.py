"""What the importance of a model's parameters needs to know of the model itself."""

import contextlib
import inspect
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

Forward = Callable[[nn.Module, Tensor, Tensor | None], Tensor]
"""``(model, inputs, task labels or None) -> outputs``, both with the samples along their first dimension."""


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module behind ``torch.compile``, ``DistributedDataParallel`` and ``DataParallel``."""
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    while True:
        if isinstance(model, wrappers):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The real floating-point ones of ``model.named_parameters()``, without the prefixes that wrappers add.

    Raises:
        ValueError: a parameter is complex, or of a lazy module that has not seen data.
    """
    found = {}
    for name, p in unwrap(model).named_parameters():
        name = name.replace("_orig_mod.", "")
        if isinstance(p, nn.parameter.UninitializedParameter) or p.is_complex():
            kind = "complex" if p.is_complex() else "not initialised: run the model on one batch first"
            raise ValueError(f"parameter {name!r} is {kind}; allowed: real parameters with a shape")
        if p.is_floating_point():
            found[name] = p
    return found


def default_forward(model: nn.Module, inputs: Tensor, task_labels: Tensor | None) -> Tensor:
    """``model(inputs)``, or ``model(inputs, task_labels)`` for a model whose forward names that argument."""
    if task_labels is not None and "task_labels" in inspect.signature(model.forward).parameters:
        return model(inputs, task_labels)
    return model(inputs)


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode, gradients on, eager and exact; every module's mode and every global flag is put back after.

    cuDNN is off where a recurrent module is (it cannot go backward in eval mode), attention's inference-only fast
    path is off (it has no gradient), TF32 is off (rules and autograd would round differently), and compiled models
    run eagerly, since hooks do not fire in compiled code.
    """
    modes = [(module, module.training) for module in model.modules()]
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    cudnn = torch.backends.cudnn.enabled
    attention = torch.backends.mha.get_fastpath_enabled()
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        model.eval()
        torch.backends.cudnn.enabled = cudnn and not recurrent
        torch.backends.mha.set_fastpath_enabled(False)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        with torch.enable_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, training in modes:
            module.training = training
        torch.backends.cudnn.enabled = cudnn
        torch.backends.mha.set_fastpath_enabled(attention)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
