"""Runs in, records out, over local processes or a Ray cluster."""

from collections.abc import Iterable, Iterator

from study.campaign.local_pool import execute_in_processes
from study.campaign.one_run import perform_and_store
from study.campaign.ray_cluster import execute_on_cluster
from study.records.run_record import RunRecord
from study.records.store import RunStore
from study.run.run_environment import RunEnvironment
from study.run.specification import Run


def execute(
    runs: Iterable[Run], store: RunStore, environment: RunEnvironment, jobs: int, cluster: str | None = None
) -> Iterator[RunRecord]:
    """Perform runs and yield the record of each as it ends, finished or not.

    A record is stored before it is yielded. Closing the iterator, or an interrupt, loses no finished run, and of an
    unfinished one at most the current experience.

    Args:
        runs: in the order in which they start.
        store: for the records.
        environment: of the runs.
        jobs: how many run at a time; 1 runs in this process.
        cluster: address of a Ray cluster, or "local" for one on this machine; None uses processes.

    Raises:
        OSError: a record or checkpoint cannot be written.
        ClusterError: there is no such cluster, or Ray is not installed.
    """
    if cluster is not None:
        yield from execute_on_cluster(runs, store, environment, jobs, cluster)
    elif jobs == 1:
        yield from (perform_and_store(run, store, environment) for run in runs)
    else:
        yield from execute_in_processes(runs, store, environment, jobs)
