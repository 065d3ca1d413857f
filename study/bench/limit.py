"""How far passes and penalties are from what the machine could do at best."""

from collections.abc import Callable, Iterator
from statistics import median

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor, nn

from clreg_plugins.importance.engine.data import JOINED
from study.bench.passes import ours
from study.bench.plugins import KINDS, learn, strategy_stub
from study.bench.record import Measurement
from study.bench.steps import FEW, repeated
from study.bench.timing import Turn, clock_of, interleave, over
from study.bench.workloads import Workload, training_epoch

FLOPS = "share of a matrix product's operations a second"
BANDWIDTH = "share of the rate at which memory is copied"
LEAST_PASS = "training epochs at the rate of a plain product"

SIDE = 1024
"""Of the square matrices whose product is the yardstick."""

SEPARATE = 5
"""Reads and writes of one copy of the parameters: θ, θ*, Ω and the gradient read, the gradient written."""

PATH_INTEGRAL = 12
"""The same for SI, which also writes g and θ, and after the update reads θ, the θ before, g and ω, and writes ω."""


def least_operations(model: nn.Module, image: Tensor, cotangents: int | None = None) -> int:
    """The floating-point operations that the categorical Fisher of one sample takes at least, in matrix products.

    For a layer whose weight W acts at P positions of a sample (P = 1 for a Linear layer of a MLP):

    - forward: 2 |W| P;
    - backward to the outputs of the layers, for each of K cotangents: 2 |W| P for every layer but the first, since
      the gradient at a layer's output comes through the weight of the layer behind it;
    - one contraction: 2 |W| where P = 1, since ``(Σ_k g_k²)ᵀ a²`` is a product of two vectors whatever K is; 2 |W| P K
      where P > 1, since per-sample gradients then have to be formed before they are squared.

    The exact Fisher has K = C − 1 for C classes, the rank of diag(π) − ππᵀ, the empirical one K = 1. Everything
    elementwise, activations, normalisation, squares and the softmax, is left out.

    Args:
        model: of Linear and Conv layers, of which only the first is fed by nothing that a layer put out.
        image: one input, without a dimension for samples.
        cotangents: K; by default that of the exact Fisher.
    """
    positions: list[tuple[int, int]] = []  # of each layer in the order of calls: entries of its weight, positions

    def note(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        outputs = output.shape[-1] if isinstance(module, nn.Linear) else output.shape[1]
        positions.append((module.weight.numel(), output[0].numel() // outputs))

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            classes = model.eval()(image.unsqueeze(0)).shape[1]
    finally:
        for hook in hooks:
            hook.remove()
    cotangents = classes - 1 if cotangents is None else cotangents
    forward = sum(2 * weight * n for weight, n in positions)
    backward = cotangents * sum(2 * weight * n for weight, n in positions[1:])
    contraction = sum(2 * weight * (1 if n == 1 else n * cotangents) for weight, n in positions)
    return forward + backward + contraction


def products_alone(model: nn.Module, samples: int, cotangents: int) -> Callable[[], None] | None:
    """The matrix products of :func:`least_operations` on so many samples, one after the other, as the pass makes them.

    Args:
        model: of Linear layers, each acting once on a sample. With convolutions there is no such list: None.
        samples: at a time.
        cotangents: K.
    """
    modules = list(model.modules())
    if any(isinstance(module, nn.modules.conv._ConvNd) for module in modules):
        return None
    products: list[tuple[Tensor, Tensor, Tensor]] = []
    for index, layer in enumerate(module for module in modules if isinstance(module, nn.Linear)):
        weight = layer.weight.detach()
        a, g = weight.new_ones(samples, layer.in_features), weight.new_ones(samples, layer.out_features)
        products.append((a, weight.T, torch.empty_like(g)))
        products += [(g, weight, torch.empty_like(a))] * (cotangents if index else 0)
        products.append((g.T, a, torch.empty_like(weight)))

    def work() -> None:
        for left, right, product in products:
            torch.mm(left, right, out=product)

    return work


def measure_flops(
    workload: Workload, classes: int, device: torch.device, rounds: int, samples: int
) -> Iterator[Measurement]:
    """Operations a second of an exact Fisher's pass, counted at their least, over those of a plain matrix product.

    The same of the pass's own matrix products with nothing else, where the pass is no more than these; and the training
    epochs that an exact and an empirical Fisher would take at the rate of the plain product.
    """
    model = workload.model(classes, device)
    inputs, targets = workload.images(samples, classes, device)
    operations = samples * least_operations(model, inputs[0])
    (exact,) = [each for each in ours() if each.computes == "exact Fisher"]
    matrix = torch.rand(SIDE, SIDE, device=device)
    product = torch.empty_like(matrix)
    of_product = 2 * SIDE**3
    repeats = max(1, operations // of_product // 4)

    def multiply() -> None:
        for _ in range(repeats):
            torch.mm(matrix, matrix, out=product)

    def measure() -> None:
        exact.measure(model, inputs, targets, samples)

    epoch = training_epoch(workload.model(classes, device), inputs, targets, workload.batch)
    turns = {"pass": Turn(measure), "product": Turn(multiply), "epoch": Turn(epoch)}
    batch = min(samples, JOINED)
    alone = products_alone(model, batch, classes - 1)
    if alone is not None:
        batches = max(1, samples // batch)
        turns["alone"] = Turn(repeated(alone, batches), batches)
    for turn in turns.values():
        turn.work()
    seconds = interleave(turns, rounds, clock_of(device))
    rates = [operations / s for s in seconds["pass"]]
    plain = [repeats * of_product / s for s in seconds["product"]]
    yield Measurement(
        part="limit",
        model=workload.name,
        mode=exact.name,
        setting=f"{classes} classes",
        quantity=FLOPS,
        values=over(rates, plain),
        seconds=seconds["pass"],
        better="higher",
        note=f"beside {workload.name}, the product of {SIDE}×{SIDE} matrices at {median(plain) / 1e9:.0f} GFLOP/s",
    )
    if alone is not None:
        of_batch = batch * least_operations(model, inputs[0])
        yield Measurement(
            part="limit",
            model=workload.name,
            mode=f"its own products, {batch} samples at a time",
            setting=f"{classes} classes",
            quantity=FLOPS,
            values=over([of_batch / s for s in seconds["alone"]], plain),
            seconds=seconds["alone"],
            better="higher",
            ours=False,
        )
    for computes, cotangents in (("exact Fisher", None), ("empirical Fisher", 1)):
        least = samples * least_operations(model, inputs[0], cotangents)
        yield Measurement(
            part="limit",
            model=workload.name,
            mode=computes,
            setting=f"{classes} classes",
            quantity=LEAST_PASS,
            values=[least / rate / s for rate, s in zip(plain, seconds["epoch"], strict=True)],
            ours=False,
        )


def measure_bandwidth(workload: Workload, device: torch.device, rounds: int) -> Iterator[Measurement]:
    """Bytes a second that a step's penalty moves, counted at their least, over those of a copy of as many bytes.

    At experience 2, where separate penalties have one term like all others. The penalty alone: all callbacks of a
    step, and a backward pass of a loss that has nothing else in it, into gradients that are there. Bytes of one copy of
    the parameters are read or written five times, twelve times by SI (:data:`SEPARATE`, :data:`PATH_INTEGRAL`).
    """
    model = workload.model(10, device)
    entries = sum(p.numel() for p in model.parameters())
    images = workload.images(FEW, 10, device)
    for kind, factories in KINDS.items():
        turns, counts = {}, {}
        for method, make in factories.items():
            plugin, strategy = make(), strategy_stub(model)
            learn(plugin, strategy, images, 1)
            counts[method] = PATH_INTEGRAL if method == "SI" else SEPARATE
            turns[method] = Turn(_penalty_alone(plugin, strategy))
            turns[f"{method}, copy"] = Turn(copy_of(counts[method] * entries, device))
        for turn in turns.values():
            turn.work()
        seconds = interleave(turns, rounds, clock_of(device))
        for method in counts:
            yield Measurement(
                part="limit",
                model=workload.name,
                mode=f"{method}, {kind}",
                setting="experience 2",
                quantity=BANDWIDTH,
                values=over(seconds[f"{method}, copy"], seconds[method]),
                seconds=seconds[method],
                better="higher",
                ours=kind.startswith("ours"),
            )


def _penalty_alone(plugin: SupervisedPlugin, strategy: object) -> Callable[[], None]:
    nothing = torch.zeros((), device=strategy.device, requires_grad=True)

    def work() -> None:
        plugin.before_training_iteration(strategy)
        plugin.before_forward(strategy)
        plugin.after_forward(strategy)
        strategy.loss = nothing + 1.0
        plugin.before_backward(strategy)
        strategy.loss.backward()
        plugin.after_backward(strategy)
        plugin.before_update(strategy)
        with torch.no_grad():
            for p in strategy.model.parameters():
                p.view(-1)[:0].zero_()  # stands for the update: nothing is written, but autograd counts it as one
        plugin.after_update(strategy)
        plugin.after_training_iteration(strategy)

    return work


def copy_of(transfers: int, device: torch.device) -> Callable[[], None]:
    """Read and write so many floats in all: half of them are read, half written."""
    source = torch.rand(max(1, transfers // 2), device=device)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)
