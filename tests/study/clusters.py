"""Ray clusters of this machine."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from study.campaign.ray_cluster import _perform


@contextmanager
def cluster(*cpus: int) -> Iterator[Any]:
    """A head and a node for each further number of CPUs."""
    from ray.cluster_utils import Cluster

    found = Cluster()
    try:
        for number, cpu in enumerate(cpus):
            found.add_node(num_cpus=cpu, **({} if number else {"include_dashboard": False}))
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
    """Ray names a worker after its run or function while it has one; its agents and idle workers have other names."""
    with suppress(psutil.Error):
        name = " ".join(process.cmdline())
        return name.startswith("ray::") and any(part in name for part in ("-incremental ", _perform.__name__))
    return False
