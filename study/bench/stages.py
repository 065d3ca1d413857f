"""What an importance pass over a convolutional network is made of, and what its stages take by themselves.

Nothing of ``clreg_plugins`` is in the stages: they are written in PyTorch's operations, each in several ways, of which
the fastest counts. So a pass that becomes slower does not take its standard with it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from study.bench.passes import ours
from study.bench.record import Measurement
from study.bench.timing import Turn, clock_of, interleave, least_seconds, long_turn, over
from study.bench.workloads import Workload, training_epoch

CPU = torch.device("cpu")
"""The only device whose passes are taken apart: which ways are fast elsewhere is another question."""

SHARE = "training epochs, stage by stage"
BARE = "training epochs, if a pass were its bare stages"
OVER_BARE = "a pass of ours over its bare stages"

FORWARD, BACKWARD = "forward", "backward to the layers' outputs"
GRADIENTS, SQUARES = "weight gradients of each sample", "their squares, summed"
OF_TRAINING = "beside it: weight gradients of a batch, as in training"

STAGES = (FORWARD, BACKWARD, GRADIENTS, SQUARES)
"""Of which :data:`BARE` is the sum."""

SAMPLES = 64
"""That every stage is done on."""

PIECES = (16, 32, 64)
"""Samples at a time, of which forward and backward passes each have what suits them best."""

BLOCK_BYTES = (2**21, 2**22, 2**23, 2**24, 2**25)
"""Per-sample gradients formed at once, of which each layer has what suits it best."""

Work = Callable[[], object]


class Layer(NamedTuple):
    """A convolution, padded with zeros, and what reaches it.

    Attributes:
        module: it.
        inputs: (samples, channels, height, width).
        gradients: at its output, under each of K cotangents (samples, K, channels, height, width).
    """

    module: nn.Conv2d
    inputs: Tensor
    gradients: Tensor


# -------------------------------------------------------------- per-sample weight gradients, written in several ways


def by_kernel(module: nn.Conv2d, a: Tensor, g: Tensor) -> Tensor:
    """One convolution's weight gradient, in which every group of every sample is a group."""
    n, k, out = g.shape[:3]
    groups, shape = module.groups, module.weight.shape
    rows = g.reshape(n, k, groups, out // groups, *g.shape[3:]).transpose(1, 2)
    found = conv2d_weight(
        a.reshape(1, -1, *a.shape[2:]),
        (n * k * out, *shape[1:]),
        rows.reshape(1, -1, *g.shape[3:]),
        module.stride,
        module.padding,
        module.dilation,
        n * groups,
    )
    return found.view(n, groups, k, out // groups, *shape[1:]).transpose(1, 2).reshape(n, k, *shape)


def by_unfold(module: nn.Conv2d, a: Tensor, g: Tensor) -> Tensor:
    """A product with each sample's patches, which ``unfold`` lays out."""
    n, k, out = g.shape[:3]
    groups = module.groups
    patches = F.unfold(a, module.kernel_size, module.dilation, module.padding, module.stride)
    patches = patches.view(n, groups, -1, patches.shape[-1])
    rows = g.reshape(n, k, groups, out // groups, -1).transpose(1, 2).reshape(n, groups, k * out // groups, -1)
    found = (rows @ patches.transpose(2, 3)).view(n, groups, k, out // groups, -1)
    return found.transpose(1, 2).reshape(n, k, *module.weight.shape)


def by_windows(module: nn.Conv2d, a: Tensor, g: Tensor) -> Tensor:
    """A contraction with a view of the input in which each position has its window."""
    n, k, out = g.shape[:3]
    groups, (down, right) = module.groups, module.padding
    windows = F.pad(a, (right, right, down, down))
    for axis in range(2):
        reach = module.dilation[axis] * (module.kernel_size[axis] - 1) + 1
        windows = windows.unfold(2 + axis, reach, module.stride[axis])[..., :: module.dilation[axis]]
    windows = windows.reshape(n, groups, -1, *windows.shape[2:])
    rows = g.reshape(n, k, groups, out // groups, *g.shape[3:])
    return torch.einsum("nkgoxy,ngcxyhw->nkgochw", rows, windows).reshape(n, k, *module.weight.shape)


WAYS = (by_kernel, by_unfold, by_windows)


def of_samples(layer: Layer, way: Callable[..., Tensor], block: int, together: int) -> Iterator[Tensor]:
    """Every sample's weight gradients, in blocks of samples and of cotangents (samples, cotangents, *weight)."""
    module, inputs, gradients = layer
    for a, g in zip(inputs.split(block), gradients.split(block), strict=True):
        for some in g.split(together, dim=1):
            yield way(module, a, some)


def streamed(total: Tensor, gradients: Tensor) -> None:
    """``total += Σ g²``, one gradient after the other."""
    for gradient in gradients.flatten(0, 1):
        total.addcmul_(gradient, gradient)


def reduced(total: Tensor, gradients: Tensor) -> None:
    """``total += Σ g²``, in one reduction."""
    total += gradients.square().sum(dim=(0, 1))


# ------------------------------------------------------------------------------------------------------- measurement


def measure_stages(workload: Workload, classes: int, rounds: int, samples: int) -> Iterator[Measurement]:
    """The stages of an exact and an empirical Fisher's pass on a CPU, in training epochs over the same samples.

    Every stage has its tensors at hand and does nothing else. Of layers only the convolutions are looked at. Ours takes
    turns with them; so do, for comparison, the weight gradients of ordinary training, summed over the samples.

    Args:
        workload: a network of convolutions, each called once and padded with zeros.
        classes: of its outputs, one more than an exact Fisher has cotangents.
        rounds: turns of every stage.
        samples: in the epoch and in the pass.
    """
    inputs, targets = workload.images(samples, classes, CPU)
    passes = {each.computes: each for each in ours()}
    for computes, cotangents in (("exact Fisher", classes - 1), ("empirical Fisher", 1)):
        works = stage_works(workload, classes, cotangents)
        epoch = training_epoch(workload.model(classes, CPU), inputs, targets, workload.batch)
        whole = partial(passes[computes].measure, workload.model(classes, CPU), inputs, targets, workload.batch)
        turns = {"epoch": Turn(epoch), OVER_BARE: Turn(whole)}
        for stage, work in works.items():
            turns[stage] = long_turn(work, clock_of(CPU), SAMPLES / samples)
        epoch()
        whole()
        seconds = interleave(turns, rounds, clock_of(CPU))
        for stage in works:
            values = over(seconds[stage], seconds["epoch"])
            yield _measurement(workload, stage, f"{computes}, {classes} classes", SHARE, values)
        together = [sum(parts) for parts in zip(*(seconds[stage] for stage in STAGES), strict=True)]
        setting = f"{classes} classes"
        yield _measurement(workload, computes, setting, BARE, over(together, seconds["epoch"]))
        yield _measurement(workload, computes, setting, OVER_BARE, over(seconds[OVER_BARE], together), ours=True)


def _measurement(
    workload: Workload, mode: str, setting: str, quantity: str, values: Sequence[float], ours: bool = False
) -> Measurement:
    return Measurement(
        part="limit", model=workload.name, mode=mode, setting=setting, quantity=quantity, values=values, ours=ours
    )


def stage_works(workload: Workload, classes: int, cotangents: int) -> dict[str, Work]:
    """What each stage does, on :data:`SAMPLES` samples, in the way that takes least."""
    model = workload.model(classes, CPU).eval()
    inputs, _ = workload.images(SAMPLES, classes, CPU)
    _, _, layers = recorded(model, inputs, cotangents)
    return {
        FORWARD: fastest([partial(_forward, model, inputs.split(piece)) for piece in PIECES]),
        BACKWARD: fastest([_backward(model, inputs[:piece], cotangents) for piece in PIECES]),
        GRADIENTS: partial(_all, [fastest(_ways(layer)) for layer in layers]),
        SQUARES: partial(_all, [fastest(_squares(layer)) for layer in layers]),
        OF_TRAINING: partial(_all, [_of_batch(layer) for layer in layers]),
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


def _all(works: Sequence[Work]) -> None:
    for work in works:
        work()


def _forward(model: nn.Module, pieces: Sequence[Tensor]) -> None:
    for piece in pieces:
        model(piece)


def _backward(model: nn.Module, piece: Tensor, cotangents: int) -> Work:
    """As often over one piece as there are pieces."""
    z, outputs, _ = recorded(model, piece, 1)
    vs = [torch.randn_like(z) for _ in range(cotangents)] * math.ceil(SAMPLES / len(piece))

    def work() -> None:
        for v in vs:
            torch.autograd.grad(z, outputs, v, retain_graph=True)

    return work


def _ways(layer: Layer) -> list[Work]:
    """Each way, in blocks of every size, with all cotangents or one at a time."""
    cotangents = layer.gradients.shape[1]
    found = []
    for together in dict.fromkeys((cotangents, 1)):
        of_sample = together * layer.module.weight.nbytes
        for block in dict.fromkeys(min(SAMPLES, max(1, size // of_sample)) for size in BLOCK_BYTES):
            found += [partial(_exhaust, layer, way, block, together) for way in WAYS]
    return found


def _exhaust(layer: Layer, way: Callable[..., Tensor], block: int, together: int) -> None:
    for _ in of_samples(layer, way, block, together):
        pass


def _squares(layer: Layer) -> list[Work]:
    """Of as many gradients as there are samples and cotangents, which lie in memory in blocks of every size."""
    weight, cotangents = layer.module.weight, layer.gradients.shape[1]

    def work(add: Callable[[Tensor, Tensor], None], gradients: Tensor, total: Tensor) -> None:
        for start in range(0, SAMPLES, len(gradients)):
            add(total, gradients[: SAMPLES - start])

    blocks = dict.fromkeys(min(SAMPLES, max(1, size // (cotangents * weight.nbytes))) for size in BLOCK_BYTES)
    return [
        partial(work, add, torch.randn(block, cotangents, *weight.shape), torch.zeros_like(weight.detach()))
        for block in blocks
        for add in (streamed, reduced)
    ]


def _of_batch(layer: Layer) -> Work:
    module, a, gradients = layer
    each = [g.contiguous() for g in gradients.unbind(dim=1)]

    def work() -> None:
        for g in each:
            conv2d_weight(a, module.weight.shape, g, module.stride, module.padding, module.dilation, module.groups)

    return work


def fastest(works: Sequence[Work]) -> Work:
    """Of several ways to do the same, the one that takes least when tried."""
    return min(works, key=lambda work: least_seconds(work, clock_of(CPU)))
