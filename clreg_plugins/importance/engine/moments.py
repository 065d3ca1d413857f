"""Moments of vector–Jacobian products: the one formula behind every importance that is measured on data.

    importance_i = 1/N Σ_n ( Σ_k (v_nkᵀ J_n)_i² )^(p/2)

Where a layer type has a rule, the gradients at the layers' outputs suffice and no per-sample weight gradient of
autograd's is formed; every other parameter takes the general path. The choice is made for each parameter and each piece
of a batch, from what the forward pass really did.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Generator, Tensor, nn

from clreg_plugins.factors import Importance, KroneckerFactors
from clreg_plugins.importance.engine.batch import Batch
from clreg_plugins.importance.engine.cotangents import Cotangents
from clreg_plugins.importance.engine.environment import pass_environment
from clreg_plugins.importance.engine.factors import FactorOptions
from clreg_plugins.importance.engine.memory import keep_freed_memory
from clreg_plugins.importance.engine.model import Forward, plain_name, unwrap
from clreg_plugins.importance.engine.modes import put_back
from clreg_plugins.importance.engine.pass_over_data import Pass
from clreg_plugins.importance.engine.snapshot import Snapshot


@contextlib.contextmanager
def measured(model: nn.Module, max_bytes: int) -> Iterator[Snapshot]:
    """Let a model be run inside, and put back whatever that changes: in the model, and in the process.

    Args:
        model: without wrappers.
        max_bytes: bound of memory, a quarter of which copies of frozen parameters may take.
    """
    modes = {module: module.training for module in model.modules()}
    with pass_environment(model):
        base = Snapshot(model, max_bytes // 4)
        try:
            base.detach_gradients()
            yield base
        finally:
            try:
                put_back(model, modes)
            finally:
                base.restore()


def jacobian_moments(
    model: nn.Module,
    data: Iterable[Batch],
    cotangents: Cotangents,
    *,
    power: int,
    forward: Forward,
    seed: int,
    batch_mean: bool = False,
    max_bytes: int = 2**30,
    path: str = "auto",
    factors: FactorOptions | None = None,
    shard: tuple[int, int] = (0, 1),
    reduce: Callable[[Tensor], None] | None = None,
) -> Importance | KroneckerFactors:
    """The importance of every parameter of ``model``, measured in eval mode; the model is left as it was.

    Args:
        model: any module; compiled and distributed wrappers are looked through.
        data: batches, in an order that is the same in every process.
        cotangents: the vectors to pull back.
        power: p, 2 or 1.
        forward: how to call the model on inputs and task labels.
        seed: of the draws of cotangents that sample; batch b uses seed + b, whatever process it falls to.
        batch_mean: pull back the mean over each batch instead of each sample; the result is the mean over batches.
        max_bytes: bound for activations, cotangents, and gradients together; at least one sample is always taken.
        path: "auto", or "vectorised" or "one_at_a_time" to take the general path for every parameter.
        factors: measure Kronecker factors where there are some, and the diagonal of the other parameters.
        shard: (rank, number of processes): this process takes every batch b with b mod number = rank.
        reduce: sums a tensor over processes, in place.

    Returns:
        Importance by parameter name, zero where a parameter is frozen or unused, in at least float32.

    Raises:
        ValueError: the model's output is not as said, has no graph, or mixes samples.
        FloatingPointError: an importance is not finite.
        RuntimeError: another process failed.
    """
    model = unwrap(model)
    _refuse_unusable_parameters(model)
    if not batch_mean:
        _refuse_batch_statistics(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type == "cpu":
        keep_freed_memory()
    rank, processes = shard
    generator = Generator(device="cpu")
    failure: Exception | None = None
    with measured(model, max_bytes) as base:
        work = Pass(
            model,
            base,
            cotangents=cotangents,
            power=power,
            forward=forward,
            generator=generator,
            max_bytes=max_bytes,
            path=path,
            factors=factors,
        )
        try:
            for index, batch in enumerate(data):
                if index % processes == rank:
                    generator.manual_seed((seed + index) % 2**63)
                    batch = batch.to(device)
                    work.batch_mean(batch) if batch_mean else work.per_sample(batch)
            if work.trainable and work.totals.terms and not work.reached:
                raise ValueError(
                    "no output of the model depends on a parameter that requires a gradient, though there are some, in "
                    "eval mode or in training mode: the importance would be zero throughout; see whether its forward "
                    "detaches, or runs without gradients"
                )
        except Exception as error:
            if reduce is None:
                raise
            failure = error  # the other processes must hear of it, or they would wait for this one
    if reduce is not None:
        failures = torch.tensor(float(failure is not None), device=device)
        reduce(failures)
        if failure is not None:
            raise failure
        if failures:
            raise RuntimeError(f"the importance pass failed in {int(failures)} other process(es); their errors say why")
    importance = work.totals.importance(reduce, work.mode, work.general.reason)
    return importance if factors is None else work.totals.factors(importance, reduce)


def _refuse_unusable_parameters(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type == "meta":
            raise ValueError(
                f"{plain_name(name)!r} is on the meta device and has no values; give the model some, as "
                "model.to_empty(device=...) and load_state_dict do"
            )
    for name, p in model.named_parameters():
        if not isinstance(p, nn.parameter.UninitializedParameter) and p.is_inference():
            raise ValueError(
                f"parameter {plain_name(name)!r} was made under torch.inference_mode and can have no gradient; "
                "make the model outside of it"
            )


def _refuse_batch_statistics(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"{name!r} is a {type(module).__name__} without running statistics, which mixes the samples of a "
                'batch, so that no sample has a gradient of its own; allowed with it: variant "batched", '
                "per_sample=False"
            )
