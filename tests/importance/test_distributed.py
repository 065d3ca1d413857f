"""Two processes share the batches; each gets what one process alone computes."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import TensorDataset

from clreg_plugins import QuadraticPenalty
from clreg_plugins.importance import fisher_diagonal, kronecker_factors, mas_importance
from tests import oracles


def factors(*args, **options) -> dict[str, torch.Tensor]:
    found = kronecker_factors(*args, max_width=6, **options)
    named = {f"{kind} of {name}": getattr(f, kind) for name, f in found.items() for kind in ("inputs", "outputs")}
    return named | found.diagonal


def measure(distributed: bool, n: int = 11) -> dict[str, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))
    data = TensorDataset(torch.randn(n, 4), torch.arange(n) % 3)
    options = {"batch_size": 3, "seed": 7, "distributed": distributed}
    return {
        "exact": dict(fisher_diagonal(model, data, **options)),
        "sample": dict(fisher_diagonal(model, data, variant="sample", draws=2, **options)),
        "batched": dict(fisher_diagonal(model, data, variant="batched", **options)),
        "some samples": dict(fisher_diagonal(model, data, n_samples=8, **options)),
        "factors": factors(model, data, **options),
        "factors of counted samples": factors(
            model, TensorDataset(data.tensors[0], torch.arange(n) % 3 - 1), variant="sample", ignore_index=-1, **options
        ),
        "factors of one batch": factors(model, data, n_samples=2, **options),
        "mas": dict(mas_importance(model, data, **options)),
        "one batch": dict(mas_importance(model, data, n_samples=2, **options)),
    }


def what_sharded_parameters_raise() -> list[str]:
    """Of a penalty, and of each function over data."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    data = TensorDataset(torch.randn(4, 4), torch.arange(4) % 3)
    said = []
    for call in (
        lambda: QuadraticPenalty().grow(dict(model.named_parameters())),
        lambda: fisher_diagonal(model, data),
        lambda: mas_importance(model, data),
        lambda: kronecker_factors(model, data),
    ):
        try:
            call()
            said.append("nothing")
        except ValueError as error:
            said.append(str(error))
    return said


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        torch.save(measure(distributed=True), f"{folder}/rank{rank}.pt")
        torch.save(what_sharded_parameters_raise(), f"{folder}/sharded{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    mp.start_processes(worker, args=(str(tmp_path),), nprocs=2, start_method="forkserver")
    for rank in range(2):
        said = torch.load(tmp_path / f"sharded{rank}.pt", weights_only=True)
        assert len(said) == 4
        assert all(each.startswith("parameter '0.weight' is a DTensor, sharded over processes") for each in said), said
    alone = measure(distributed=False)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for what, expected in alone.items():
        for rank, found in enumerate(ranks):
            oracles.assert_close(found[what], expected, 1e-6, f"{what}, rank {rank}")
        assert all(torch.equal(ranks[0][what][name], ranks[1][what][name]) for name in expected), what
