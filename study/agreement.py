"""How alike the importances of a protocol's methods are, and what each pass costs, on one and the same network."""

import statistics
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from clreg_plugins import fisher_diagonal
from clreg_plugins.diagnostics import agreement
from study.alike import Alike
from study.batches import Columns, InMemoryLoader, columns_of
from study.bench.timing import Turn, interleave
from study.conditions import Conditions
from study.protocol import Protocol, ProtocolError
from study.records import Run
from study.settings import EWC, Naive, OnlineEWC, Scenario
from study.threads import torch_threads
from study.training import Learner, derived_seed

PASSES = 3  # of each kind, in turns; their median counts
READ_AT_A_TIME = 256


def measure_agreement(
    name: str, protocol: Protocol, scenario: Scenario, seed: int, conditions: Conditions
) -> Iterator[Alike]:
    """Train without penalty, and measure after each experience every importance that the protocol's EWC methods do.

    Args:
        name, protocol: with at least one method of kind "naive", and one EWC with the exact Fisher on all samples.
        scenario, seed: of the run.
        conditions: of the run.

    Raises:
        ProtocolError: the protocol lacks one of these.
        DataError: the data is not there.
    """
    naive, methods, exact = _methods(name, protocol)
    run = Run.of(name, protocol, scenario, naive, seed)
    with torch_threads(1):
        learner = Learner(run, conditions)
        for index, experience in enumerate(learner.benchmark.train_stream):
            learner.learn(index)
            columns = columns_of(experience.dataset, torch.device("cpu"))
            batches = -(-len(columns[0]) // run.training.batch_size)
            steps = run.training.iterations or run.training.epochs * batches
            epoch = learner.state.seconds.training[-1] / steps * batches
            passes = {
                method: partial(_importance, learner.state.model, columns, protocol.methods[method], seed)
                for method in methods
            }
            yield from _compared(scenario, seed, index, exact, epoch, passes)


def _methods(name: str, protocol: Protocol) -> tuple[str, list[str], str]:
    naive = [method for method, settings in protocol.methods.items() if isinstance(settings, Naive)]
    methods = [method for method, settings in protocol.methods.items() if isinstance(settings, EWC | OnlineEWC)]
    exact = [m for m in methods if protocol.methods[m].fisher == "exact" and protocol.methods[m].n_samples is None]
    if not naive or not exact:
        missing = "an EWC with the exact Fisher on all samples" if naive else "a method of kind 'naive'"
        raise ProtocolError(f"{name} has no importances to compare: it needs {missing}")
    return naive[0], methods, exact[0]


def _compared(
    scenario: Scenario, seed: int, index: int, exact: str, epoch: float, passes: Mapping[str, Any]
) -> Iterator[Alike]:
    found: dict[str, dict[str, Tensor]] = {}

    def measured(method: str) -> None:
        found[method] = passes[method]()

    turns = {method: Turn(partial(measured, method)) for method in passes}
    seconds = interleave(turns, PASSES, time.perf_counter)
    for method, importance in found.items():
        a, b = _where_either_is_not_zero(importance, found[exact])
        alike = agreement(a, b)
        took = statistics.median(seconds[method])
        yield Alike(
            scenario=scenario,
            seed=seed,
            experience=index,
            method=method,
            seconds=took,
            epochs=took / epoch,
            spearman=alike.spearman,
            pearson=alike.pearson,
            cosine=alike.cosine,
            ratio=alike.ratio,
            entries=alike.n,
        )


def _importance(model: nn.Module, columns: Columns, settings: EWC | OnlineEWC, seed: int) -> dict[str, Tensor]:
    """As the plugin measures it, but for where the data is read from."""
    drawn = derived_seed(seed, "importance")
    if settings.n_samples is not None:
        rows = torch.randperm(len(columns[0]), generator=torch.Generator().manual_seed(drawn))[: settings.n_samples]
        columns = [column[rows] for column in columns]
    data = InMemoryLoader(columns, settings.batch_size or READ_AT_A_TIME)
    return fisher_diagonal(model, data, variant=settings.fisher, seed=drawn)


def _where_either_is_not_zero(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    masks = {name: (a[name] != 0) | (b[name] != 0) for name in a}
    kept = [name for name, mask in masks.items() if mask.any()]
    return {name: a[name][masks[name]] for name in kept}, {name: b[name][masks[name]] for name in kept}
