"""From a user's model, data and options to a pass."""

from typing import Any

from torch import Generator, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from clreg_plugins.checks import instance
from clreg_plugins.factors import Importance, KroneckerFactors
from clreg_plugins.importance.engine.cotangents import Cotangents
from clreg_plugins.importance.engine.data import batches
from clreg_plugins.importance.engine.environment import loader_states
from clreg_plugins.importance.engine.factors import FactorOptions
from clreg_plugins.importance.engine.model import default_forward, names_task_labels, unwrap
from clreg_plugins.importance.engine.moments import jacobian_moments
from clreg_plugins.importance.engine.processes import processes


def measure(
    model: nn.Module,
    data: DataLoader | Dataset,
    cotangents: Cotangents,
    *,
    power: int,
    batch_mean: bool,
    options: dict[str, Any],
    factors: FactorOptions | None = None,
) -> Importance | KroneckerFactors:
    """An importance of ``model`` on ``data``.

    Args:
        cotangents: what is pulled back.
        power: p.
        batch_mean: of batch means instead of samples.
        options: every key of :class:`PassOptions`, checked.
        factors: measure Kronecker factors.
    """
    instance("model", model, nn.Module, "a torch.nn.Module")
    shard, reduce = processes(options["distributed"])
    if options["distributed"] and isinstance(getattr(data, "sampler", None), DistributedSampler):
        raise ValueError(
            "data has a DistributedSampler, which gives each process a part, and distributed=True shares the batches "
            "of the same data; allowed: one of the two"
        )
    read = batches(
        data,
        batch_size=options["batch_size"],
        batches_matter=batch_mean or options["distributed"],
        n_samples=options["n_samples"],
        num_workers=options["num_workers"],
        generator=Generator(device="cpu").manual_seed(options["seed"]),
        unpack=options["unpack"],
        task_aware=names_task_labels(unwrap(model)),
    )
    with loader_states(data):
        return jacobian_moments(
            model,
            read,
            cotangents,
            power=power,
            forward=options["forward"] or default_forward,
            seed=options["seed"],
            batch_mean=batch_mean,
            max_bytes=options["max_bytes"],
            path=options["path"],
            factors=factors,
            shard=shard,
            reduce=reduce,
        )
