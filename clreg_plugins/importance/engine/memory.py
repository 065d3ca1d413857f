"""How many samples a pass takes at a time, so that it keeps to its bound on memory."""

from functools import cache

import torch
from torch import Tensor

from clreg_plugins.importance.engine.batch import Batch
from clreg_plugins.importance.engine.cotangents import Cotangents
from clreg_plugins.importance.engine.forward_pass import ForwardPass, is_out_of_memory
from clreg_plugins.importance.engine.general_path import GROUP
from clreg_plugins.importance.engine.layer_rules import EmbeddingRule, LinearRule
from clreg_plugins.importance.engine.model import has_memory
from clreg_plugins.importance.engine.recording import Graph

OUTPUT_BYTES = 2**22
"""Largest output of one layer in a piece on a CPU; larger pieces no longer fit the caches and are slower."""

KERNEL_BYTES = 2**24
"""What kernels keep for themselves on a CPU, code and scratch, however small a piece is; set aside from the bound."""

OUTPUT_COPIES = 8
"""Tensors of the outputs' size that the making of one cotangent takes."""


def samples_at_a_time(run: ForwardPass, batch: Batch, cotangents: Cotangents, power: int, max_bytes: int) -> int:
    """How many samples half the memory bound holds: activations, cotangents, and gradients at layers' outputs.

    Args:
        run: the model.
        batch: at least two samples, of which it is run on a few.
        cotangents: what is pulled back.
        power: p.
        max_bytes: the bound.
    """
    few = batch.rows(0, 2)
    z = run(few, record=True)
    run.recorder.record_summands(Graph(z))
    k, element = cotangents.number(z), z.element_size()
    calls = [(m, call) for m, calls in run.recorder.calls.items() for call in calls if call]
    sizes = [call.output_numel / few.size for _, call in calls]
    held = 0.0
    for (module, _), size in zip(calls, sizes, strict=True):
        rule = run.recorder.rules[module]
        if type(rule) is LinearRule and size == getattr(module, "out_features", 0):
            held += 3 * size  # one gradient, its square, and the sum of these
        else:
            held += 2 * min(k, GROUP) * size  # as they come, and in the products made of them
            if power == 1 and k > GROUP and not isinstance(rule, EmbeddingRule):
                held += 2 * sum(p.numel() for p in module.parameters(recurse=False))
    outputs = z.numel() / few.size
    made = (min(k, GROUP) + OUTPUT_COPIES) * outputs
    saved = _saved_bytes_per_sample(run, batch)
    if saved is None:
        saved = 4 * sum(sizes) * element  # a guess: inputs and outputs of the layers, and as much between them
    needed = 2 * saved + (held + made) * element + cotangents.extra_bytes(z)
    if z.device.type != "cpu":
        return max(1, int(max_bytes / (2 * max(1, needed))))
    bound = max_bytes - min(max_bytes // 4, KERNEL_BYTES)
    largest = max(sizes, default=1) * element
    return max(1, int(min(bound / (2 * max(1, needed)), OUTPUT_BYTES / largest)))


def _saved_bytes_per_sample(run: ForwardPass, batch: Batch) -> float | None:
    """What autograd keeps for one more sample of ``batch``, measured on its first samples.

    None where it cannot be measured: a forward pass with transforms of torch.func allows no hooks on saved tensors.
    """

    def measure(n: int) -> int:
        """Bytes that autograd keeps for this many samples."""
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            """Count a storage once, however many tensors share it."""
            if not has_memory(tensor):
                storages[id(tensor)] = tensor.numel() * tensor.element_size()
                return tensor.detach()
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # an output that its own node keeps would never be freed

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = run(batch.rows(0, n))
            total = sum(storages.values())
        del outputs
        return total

    many = min(4, batch.size)
    few = max(1, many // 2)
    try:
        return max(0.0, (measure(many) - measure(few)) / (many - few))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return None


@cache
def keep_freed_memory() -> None:
    """Let the C library keep what one batch frees for the next; fetching it again took a fifth of an MLP's pass.

    glibc gives memory back beyond twice the largest block it has freed, which it counts up to 32 MiB. One that is
    never written to is enough, once per process: the next would lie in its heap, and lengthen that.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8, device="cpu")
