"""Ray clusters of this machine."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil


@contextmanager
def cluster(*cpus: int) -> Iterator[Any]:
    """A head and a node for each further number of CPUs."""
    from ray.cluster_utils import Cluster

    head, *nodes = cpus
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": head, "include_dashboard": False})
    try:
        for number in nodes:
            found.add_node(num_cpus=number)
        yield found
    finally:
        found.shutdown()


def ray_workers(found: Any) -> list[psutil.Process]:
    """The processes that perform a run."""
    workers = []
    for node in found.list_all_nodes():
        for raylet in node.all_processes.get("raylet", []):
            with suppress(psutil.Error):
                children = psutil.Process(raylet.process.pid).children(recursive=True)
                workers += [child for child in children if is_busy(child)]
    return workers


def is_busy(process: psutil.Process) -> bool:
    """Ray names a worker after its run."""
    with suppress(psutil.Error, IndexError):
        name = process.cmdline()[0]
        return name.startswith("ray::") and not name.startswith("ray::IDLE")
    return False
