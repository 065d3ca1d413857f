"""Checks, before any training, that the user's own code can be trained and evaluated."""

import io
from collections.abc import Iterable

import torch

from study.errors import ProtocolError
from study.protocol.own_code import describe
from study.protocol.table import Own
from study.run.run_environment import RunEnvironment
from study.run.specification import Run
from study.run.trainer import Learner, torch_threads


def check_own_code(runs: Iterable[Run], environment: RunEnvironment) -> None:
    """Build benchmark, model and method of one run for each method and scenario with code of the user's own.

    Nothing is written.

    Raises:
        ProtocolError: something cannot be built or pickled.
        DataError: data is missing, or too little to split.
    """
    checked = set()
    for run in runs:
        what = (run.scenario, run.label if isinstance(run.method, Own) else None)
        if what not in checked and run.own_code:
            checked |= {what, (run.scenario, None)}
            _check(run, RunEnvironment(environment.data_root, code_folder=environment.code_folder))


def _check(run: Run, environment: RunEnvironment) -> None:
    on_cpu = run.model_copy(update={"device": "cpu"})
    with torch_threads(1), torch.random.fork_rng(devices=[]):
        learner = Learner(on_cpu, environment)
        if learner.resumable:
            try:
                torch.save(learner.state, io.BytesIO())
            except Exception as error:
                raise ProtocolError(
                    f"methods.{run.label}: its state cannot be pickled, as checkpoints need: {describe(error, None)}"
                ) from error
