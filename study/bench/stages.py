"""What an importance pass over a convolutional network is made of, and what its stages take by themselves."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from clreg_plugins.importance.layers import CACHE_BYTES, ConvRule, add_moment
from study.bench.record import Measurement
from study.bench.steps import TURN, repeated
from study.bench.timing import Turn, clock_of, interleave, seconds_of
from study.bench.workloads import Workload, training_epoch

CPU = torch.device("cpu")
"""Where the operations that are compared are the ones to choose between."""

SHARE = "training epochs, stage by stage"
BARE = "training epochs, if a pass were its bare stages"

FORWARD, BACKWARD = "forward", "backward to the layers' outputs"
GRADIENTS, SQUARES = "weight gradients of each sample", "their squares, summed"
OF_TRAINING = "beside it: weight gradients of a batch, as in training"

STAGES = (FORWARD, BACKWARD, GRADIENTS, SQUARES)
"""Of which :data:`BARE` is the sum."""

PIECE = 64
"""Samples that every stage is done on."""

BLOCK_BYTES = (2**22, 2**23, 2**24, 2**25)
"""Per-sample gradients formed at once, of which each layer has what suits it best."""

PRODUCTS = (ConvRule.by_groups, ConvRule.by_patches)
"""Both ways to form them by operations that PyTorch has: one convolution's gradient, or products with patches."""

TRIES = 2


class Layer(NamedTuple):
    """A convolution and what reaches it: its input (samples, …), and gradients at its output (samples, K, …)."""

    module: nn.Conv2d
    inputs: Tensor
    gradients: Tensor


def measure_stages(workload: Workload, classes: int, rounds: int, samples: int) -> Iterator[Measurement]:
    """The stages of an exact and an empirical Fisher's pass on a CPU, in training epochs over the same samples.

    Every stage has its tensors at hand and does nothing else. Of layers only the convolutions are looked at; their
    per-sample gradients come from the faster of :data:`PRODUCTS`, in blocks of the size that suits it best. Beside them
    stand the weight gradients of ordinary training, which sums over samples in registers: what is least.

    Args:
        workload: a network of convolutions, each called once.
        classes: of its outputs, one more than an exact Fisher has cotangents.
        rounds: turns of every stage.
        samples: in the epoch.
    """
    for computes, cotangents in (("exact Fisher", classes - 1), ("empirical Fisher", 1)):
        works = _works(workload, classes, cotangents)
        epoch = training_epoch(workload.model(classes, CPU), *workload.images(samples, classes, CPU), workload.batch)
        turns = {"epoch": Turn(epoch)}
        for stage, work in works.items():
            times = max(1, math.ceil(TURN / max(1e-6, seconds_of(work, clock_of(CPU)))))
            turns[stage] = Turn(repeated(work, times), times * PIECE / samples)
        epoch()
        seconds = interleave(turns, rounds, clock_of(CPU))
        epochs = {stage: [a / b for a, b in zip(seconds[stage], seconds["epoch"], strict=True)] for stage in works}
        setting = f"{computes}, {classes} classes"
        for stage, values in epochs.items():
            yield _measurement(workload, stage, setting, SHARE, values)
        together = [sum(parts) for parts in zip(*(epochs[stage] for stage in STAGES), strict=True)]
        yield _measurement(workload, computes, f"{classes} classes", BARE, together)


def _measurement(workload: Workload, mode: str, setting: str, quantity: str, values: Sequence[float]) -> Measurement:
    return Measurement(
        part="limit", model=workload.name, mode=mode, setting=setting, quantity=quantity, values=values, ours=False
    )


def _works(workload: Workload, classes: int, cotangents: int) -> dict[str, Callable[[], object]]:
    model = workload.model(classes, CPU).eval()
    inputs, _ = workload.images(PIECE, classes, CPU)
    z, outputs, layers = recorded(model, inputs, cotangents)
    vs = [torch.randn_like(z) for _ in range(cotangents)]
    chosen = [fastest(_ways(layer)) for layer in layers]
    squares = [_squares(layer) for layer in layers]

    def backward() -> None:
        for v in vs:
            torch.autograd.grad(z, outputs, v, retain_graph=True)

    return {
        FORWARD: partial(model, inputs),
        BACKWARD: backward,
        GRADIENTS: partial(_all, chosen),
        SQUARES: partial(_all, squares),
        OF_TRAINING: partial(_all, [partial(_of_batch, layer) for layer in layers]),
    }


def recorded(model: nn.Module, inputs: Tensor, cotangents: int) -> tuple[Tensor, list[Tensor], list[Layer]]:
    """The model's outputs, the outputs of its convolutions, and these with random gradients at their outputs."""
    calls: dict[nn.Conv2d, tuple[Tensor, Tensor]] = {}

    def note(module: nn.Conv2d, args: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = args[0].detach(), output

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Conv2d)]
    try:
        z = model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    layers = [
        Layer(module, a, torch.randn(len(a), cotangents, *output.shape[1:])) for module, (a, output) in calls.items()
    ]
    return z, [output for _, output in calls.values()], layers


def _all(works: Sequence[Callable[[], object]]) -> None:
    for work in works:
        work()


def _ways(layer: Layer) -> list[Callable[[], object]]:
    """Both products, in blocks of every size."""
    of_sample = layer.gradients.shape[1] * layer.module.weight.nbytes
    blocks = dict.fromkeys(min(PIECE, max(1, size // of_sample)) for size in BLOCK_BYTES)
    return [partial(per_sample, layer, product, block) for product in PRODUCTS for block in blocks]


def per_sample(layer: Layer, product: Callable[..., Tensor], block: int) -> Tensor:
    """Every sample's weight gradients, block by block; the last block's (samples, groups, K, channels/groups, -1)."""
    module, inputs, gradients = layer
    for a, g in zip(inputs.split(block), gradients.split(block), strict=True):
        n, cotangents, out = g.shape[:3]
        rows = g.reshape(n, cotangents, module.groups, out // module.groups, -1).transpose(1, 2)
        found = product(module, ConvRule().prepare(module, a), rows, g.shape[3:])
    return found.view(n, module.groups, cotangents, out // module.groups, -1)


def _squares(layer: Layer) -> Callable[[], None]:
    weight, cotangents = layer.module.weight, layer.gradients.shape[1]
    block = min(PIECE, max(1, CACHE_BYTES // (cotangents * weight.nbytes)))
    gradients, total = torch.randn(block, cotangents, *weight.shape), torch.zeros_like(weight)

    def work() -> None:
        for start in range(0, PIECE, block):
            add_moment(total, gradients[: PIECE - start], 2)

    return work


def _of_batch(layer: Layer) -> None:
    module, a, gradients = layer
    for k in range(gradients.shape[1]):
        g = gradients[:, k]
        conv2d_weight(a, module.weight.shape, g, module.stride, module.padding, module.dilation, module.groups)


def fastest(works: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """Of several ways to do the same, the one that takes least when tried."""

    def least(work: Callable[[], object]) -> float:
        return min(seconds_of(work, clock_of(CPU)) for _ in range(TRIES))

    return min(works, key=least)
