"""Two processes on gloo: one importance, shared by both, equal to that of a single process."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from avalanche.models.dynamic_modules import avalanche_model_adaptation
from torch.nn.parallel import DistributedDataParallel

from tests.plugins.digits import (
    MEASURES,
    PLUGINS,
    MultiHead,
    assert_close,
    class_incremental,
    mlp,
    parameters_of,
    strategy_for,
    task_incremental,
)

pytestmark = [
    pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo"),
    pytest.mark.filterwarnings("ignore"),
]


def half_of(stream, rank):
    """Every second sample of each experience: what a DistributedSampler gives one rank."""
    from avalanche.benchmarks import benchmark_from_datasets

    parts = [e.dataset.subset(list(range(rank, len(e.dataset), 2))) for e in stream]
    return benchmark_from_datasets(train=parts).train_stream


def process(rank, folder, jobs):
    """Every job in turn, in one of two processes; results go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {name: JOBS[job](rank, plugin) for name, (job, plugin) in jobs.items()}
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def train_wrapped(rank, plugin_name):
    """Naive with the model in DistributedDataParallel: each rank trains on its half of every batch.

    The importance is measured on the data that the ranks share, as one process would measure it.
    """
    torch.manual_seed(0)
    plugin = PLUGINS[plugin_name]()
    model = mlp()
    wrapped = DistributedDataParallel(model)
    stream = class_incremental(2).train_stream
    strategy = strategy_for(wrapped, [plugin], optimizer=torch.optim.SGD(model.parameters(), lr=0.05), train_mb_size=5)
    halves = half_of(stream, rank)
    terms = []
    plugin._experience_data = lambda strategy, data: stream[len(terms)].dataset
    for experience in halves:
        strategy.train(experience, eval_streams=[], shuffle=False)
        terms.append({n: v.clone() for n, v in plugin.importance.items()})
    return {"importance": terms, "parameters": parameters_of(model), "loss": strategy.loss.item()}


def train_heads(rank, plugin_name):
    """Two heads of which a batch uses one: in experience 2 the penalty reaches the head that the forward leaves out."""
    torch.manual_seed(0)
    plugin = PLUGINS[plugin_name]()
    model = MultiHead()
    stream = task_incremental(2).train_stream
    for experience in stream:  # DistributedDataParallel wants all parameters at its construction
        avalanche_model_adaptation(model, experience)
    wrapped = DistributedDataParallel(model, find_unused_parameters=True) if dist.is_initialized() else model
    batch = 10 // (dist.get_world_size() if dist.is_initialized() else 1)  # Avalanche gives each rank its share
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    strategy = strategy_for(wrapped, [plugin], optimizer=optimizer, train_mb_size=batch)
    for experience in stream:
        strategy.train(experience, eval_streams=[], shuffle=False)
    return {"parameters": parameters_of(model), "importance": plugin.importance}


def measure(rank, plugin_name):
    """A plugin in a loop of one's own: the same θ on both ranks, the pass shared."""

    plugin = PLUGINS[plugin_name](consolidation="manual")
    if hasattr(plugin, "reading"):
        plugin.reading.options["batch_size"] = 7  # 40 samples: six batches, the last one of 5
    plugin.consolidate(strategy_for(mlp(), [plugin]), class_incremental(1).train_stream[0].dataset)
    return {"importance": plugin.importance, "anchor": plugin.anchor}


def fewer_batches_than_processes(rank, plugin_name):
    """All samples in one batch: the second process has nothing to do but to take part in the sum."""

    plugin = PLUGINS[plugin_name](consolidation="manual")
    plugin.consolidate(strategy_for(mlp(), [plugin], train_mb_size=40), class_incremental(1).train_stream[0].dataset)
    return {"importance": plugin.importance, "anchor": plugin.anchor}


JOBS = {"train": train_wrapped, "heads": train_heads, "measure": measure, "few": fewer_batches_than_processes}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What two processes computed; started once for all tests of this file."""
    folder = tmp_path_factory.mktemp("gloo")
    jobs = {f"train {name}": ("train", name) for name in PLUGINS}
    jobs |= {f"heads {name}": ("heads", name) for name in PLUGINS}
    jobs |= {f"{job} {name}": (job, name) for job in ("measure", "few") for name in MEASURES}
    mp.start_processes(process, args=(str(folder), jobs), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("job", ["measure", "few"])
@pytest.mark.parametrize("name", MEASURES)
def test_a_shared_pass_is_the_pass_of_one_process(results, job, name):
    alone = JOBS[job](0, name)
    for rank in (0, 1):
        got = results[rank][f"{job} {name}"]
        assert_close(got["importance"], alone["importance"], rtol=1e-5, what=f"importance on rank {rank}")
        assert_close(got["anchor"], alone["anchor"], rtol=0, atol=0, what=f"anchor on rank {rank}")
    first, second = (results[rank][f"{job} {name}"]["importance"] for rank in (0, 1))
    assert_close(first, second, rtol=0, atol=0, what="importance between ranks")


def test_a_head_that_the_batch_leaves_out(results, plugin_name):
    """Batches of 5 on each rank are batches of 10 in one process."""
    alone = train_heads(0, plugin_name)
    for rank in (0, 1):
        got = results[rank][f"heads {plugin_name}"]
        assert_close(got["parameters"], alone["parameters"], rtol=1e-4, what=f"parameters on rank {rank}")
        assert_close(got["importance"], alone["importance"], rtol=1e-3, what=f"importance on rank {rank}")


def test_training_with_the_penalty_stays_in_step(results, plugin_name):
    """Both ranks have the same parameters, to the bit, after two experiences, the second with a penalty."""
    first, second = (results[rank][f"train {plugin_name}"] for rank in (0, 1))
    assert_close(first["parameters"], second["parameters"], rtol=0, atol=0, what="parameters between ranks")
    assert set(first["parameters"]) == set(first["importance"][0]), "names carry a prefix of the wrapper"
    if plugin_name != "SI":
        for t in (0, 1):
            assert_close(first["importance"][t], second["importance"][t], rtol=0, atol=0, what=f"importance after {t}")


def test_training_in_two_processes_is_training_in_one(results, plugin_name):
    """Batches of 5 on each rank are batches of 10 in one process: the averaged gradients are equal.

    That holds for SI's ω too: the gradients that it reads after the backward pass are the averaged ones.
    """
    plugin = PLUGINS[plugin_name]()
    model = mlp()
    strategy = strategy_for(model, [plugin], optimizer=torch.optim.SGD(model.parameters(), lr=0.05), train_mb_size=10)
    for t, experience in enumerate(class_incremental(2).train_stream):
        strategy.train(experience, eval_streams=[], shuffle=False)
        got = results[0][f"train {plugin_name}"]["importance"][t]
        assert_close(got, plugin.importance, rtol=1e-3, what=f"importance after experience {t}")
    assert_close(results[0][f"train {plugin_name}"]["parameters"], parameters_of(model), rtol=1e-4, what="parameters")
