"""A loss that is not finite in one of two processes ends all of them, rather than leave the other waiting."""

import math
import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from avalanche.core import SupervisedPlugin
from torch.nn.parallel import DistributedDataParallel

from tests.plugins.digits import PLUGINS, class_incremental, mlp, parameters_of, strategy_for

pytestmark = [
    pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo"),
    pytest.mark.filterwarnings("ignore"),
]

PATIENCE = 120  # seconds


class SpoiledHere(SupervisedPlugin, supports_distributed=True):
    """Makes the loss of one iteration NaN, in one process."""

    def __init__(self, rank, spoiled, iteration):
        super().__init__()
        self.iteration = iteration if rank == spoiled else None

    def before_backward(self, strategy, **kwargs):
        """Spoil."""
        if strategy.clock.train_iterations == self.iteration:
            strategy.loss = strategy.loss * math.nan


def trained(rank, name, wrapped, spoiled):
    """How training ended."""
    torch.manual_seed(0)
    model, plugin = mlp(), PLUGINS[name]()
    spoiling = SpoiledHere(rank, spoiled, 2)  # the second of three epochs, of two iterations each in each process
    strategy = strategy_for(
        DistributedDataParallel(model) if wrapped else model,
        [spoiling, plugin],
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        train_mb_size=10,
        train_epochs=3,
    )
    try:
        strategy.train(class_incremental(1).train_stream[0], eval_streams=[], shuffle=False)
    except FloatingPointError as error:
        return {"error": str(error), "epochs": strategy.clock.train_exp_epochs, "terms": plugin.penalty.n_terms}
    finite = all(bool(p.isfinite().all()) for p in parameters_of(model).values())
    return {"error": "", "finite": finite, "terms": plugin.penalty.n_terms}


JOBS = {
    f"{name}, {'wrapped' if wrapped else 'plain'}, {spoiled}": (name, wrapped, spoiled)
    for name in PLUGINS
    for wrapped in (True, False)
    for spoiled in (0, 1, None)
}


def process(rank, folder):
    """Every job in turn, in one of two processes; results go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save({job: trained(rank, *options) for job, options in JOBS.items()}, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What two processes came to; ended, and the tests failed, if one waits for the other."""
    folder = tmp_path_factory.mktemp("gloo")
    started = mp.start_processes(process, args=(str(folder),), nprocs=2, start_method="forkserver", join=False)
    deadline = time.monotonic() + PATIENCE
    while not started.join(timeout=1):
        if time.monotonic() > deadline:
            for worker in started.processes:
                worker.kill()
            pytest.fail(f"two processes were not done after {PATIENCE} seconds: one waits for the other")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("spoiled", [0, 1])
@pytest.mark.parametrize("wrapped", ["wrapped", "plain"])
def test_every_process_raises_the_same_error_at_the_end_of_that_epoch(results, plugin_name, wrapped, spoiled):
    for rank in (0, 1):
        got = results[rank][f"{plugin_name}, {wrapped}, {spoiled}"]
        message = "the loss became NaN or infinite in this epoch; it must stay finite"
        assert got.get("error") == message, f"rank {rank}: {got}"
        assert got["epochs"] == 1, f"rank {rank} ended the second epoch after {got['epochs']} others"
        assert got["terms"] == 0, f"rank {rank} consolidated"
    first, second = (results[rank][f"{plugin_name}, {wrapped}, {spoiled}"] for rank in (0, 1))
    assert first == second, f"rank 0: {first}, rank 1: {second}"


@pytest.mark.parametrize("wrapped", ["wrapped", "plain"])
def test_with_finite_losses_training_goes_on(results, plugin_name, wrapped):
    for rank in (0, 1):
        got = results[rank][f"{plugin_name}, {wrapped}, None"]
        assert got == {"error": "", "finite": True, "terms": 1}, f"rank {rank}: {got}"
