"""A campaign: keep finished runs, perform the others in processes or on a cluster, and show progress."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, redirect_stdout

from rich.console import Console

from study.campaign.local_pool import execute_in_processes
from study.campaign.one_run import is_lost, perform_and_store
from study.campaign.progress import StudyProgress
from study.campaign.ray_cluster import execute_on_cluster
from study.records.request import Request, write_request
from study.records.run_record import RunRecord
from study.records.store import RunStore
from study.run.run_environment import RunEnvironment
from study.run.specification import Run


class Interrupted(Exception):
    """The campaign was interrupted; ``finished`` runs are done and kept."""

    def __init__(self, finished: int) -> None:
        super().__init__(f"interrupted with {finished} runs finished")
        self.finished = finished


def carry_out(
    runs: Sequence[Run],
    store: RunStore,
    environment: RunEnvironment,
    *,
    jobs: int,
    terminal: Console,
    force: bool = False,
    known: Sequence[RunRecord] = (),
    cluster: str | None = None,
    gpus: float = 1.0,
    max_silence: float | None = None,
    request: Request | None = None,
) -> list[RunRecord]:
    """Perform the runs that have not ended, and return the records of all in their order.

    A run that diverged has ended: it would diverge again. A run that failed is tried again.

    Args:
        runs, environment: what to perform, and with what.
        store: of the records, locked meanwhile.
        jobs: how many run at a time.
        terminal: shows the progress.
        force: perform all runs from the start, and put existing records aside.
        known: records from elsewhere; runs that ended there are copied, under their names here.
        cluster, gpus, max_silence: see :func:`execute`.
        request: what the runs were asked for, kept with the records.

    Raises:
        Interrupted: on Ctrl-C.
        RecordError: a record is damaged, or another study writes to the store.
        OSError: the store cannot be written to.
        ClusterError: the cluster cannot be used.
    """
    with store.locked():
        if request is not None:
            write_request(request, store.folder)
        if force:
            store.put_aside(runs)  # at once, so that after an interrupt the rest is done without --force
        records = _ended(runs, store, known)
        kept = sum(run.id in records for run in runs)
        if kept:
            terminal.print(f"{kept} of {len(runs)} runs have ended already, in {store.folder}", markup=False)
        # methods of equal settings are one run under two names
        missing = list({run.id: run for run in runs if run.id not in records}.values())
        progress = StudyProgress(terminal, len(missing), max(1, min(jobs, len(missing))), store)
        how = {"cluster": cluster, "gpus": gpus, "max_silence": max_silence, "say": progress.say}
        try:
            with progress.shown(), closing(execute(missing, store, environment, jobs, **how)) as ended:
                for record in ended:
                    records[record.id] = record
                    progress.advance(record)
        except KeyboardInterrupt:  # one may have ended while the others were being stopped
            records |= {run.id: record for run in missing if (record := store.read(run)) is not None}
            raise Interrupted(sum(run.id in records and records[run.id].finished for run in runs)) from None
        under_own_names = [records[run.id].model_copy(update={"run": run}) for run in runs]
        for record in under_own_names:
            if record.run.label != records[record.id].run.label and not is_lost(record):
                store.write(record)
    return under_own_names


def _ended(runs: Sequence[Run], store: RunStore, known: Sequence[RunRecord]) -> dict[str, RunRecord]:
    """The records of the runs that have ended here, in the folder's archive or elsewhere, by id."""
    elsewhere = {record.id: record for record in (*known, *store.archived()) if record.final}
    records = {}
    for run in runs:
        record = store.read(run)
        if (record is None or not record.final) and run.id in elsewhere:
            record = elsewhere[run.id].model_copy(update={"run": run})
            store.write(record)
        if record is not None and record.final:
            records[run.id] = record
    store.drop_under_way(records)  # which a call leaves that is killed after it wrote the record
    return records


def execute(
    runs: Iterable[Run],
    store: RunStore,
    environment: RunEnvironment,
    jobs: int,
    cluster: str | None = None,
    *,
    gpus: float = 1.0,
    max_silence: float | None = None,
    say: Callable[[str], None] = print,
) -> Iterator[RunRecord]:
    """Perform runs and yield the record of each as it ends, finished or not.

    A record is stored before it is yielded. Closing the iterator, or an interrupt, loses no finished run, and of an
    unfinished one at most the current experience. A run whose process dies is restarted once; if it is lost again,
    its record says so and is not stored.

    Args:
        runs: in the order in which they start.
        store, environment: for the records, and of the runs.
        jobs: how many run at a time; 1 runs in this process, unless ``max_silence`` is given.
        cluster: address of a Ray cluster, or "local" for one on this machine; None uses processes.
        gpus: of a cluster, the share of a GPU that a run on "cuda" takes.
        max_silence: minutes after which a process is killed whose run has not ended an experience; None for no limit.
        say: is told of runs that are lost.

    Raises:
        OSError: a record or checkpoint cannot be written.
        ClusterError: there is no such cluster, or Ray is not installed.
    """
    if cluster is not None:
        with redirect_stdout(sys.stderr):  # Ray prints there what it says of lost workers; results stay apart
            yield from execute_on_cluster(runs, store, environment, jobs, cluster, gpus, say)
    elif jobs == 1 and max_silence is None:
        yield from (perform_and_store(run, store, environment) for run in runs)
    else:
        yield from execute_in_processes(runs, store, environment, jobs, max_silence, say)
