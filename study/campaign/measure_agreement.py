"""Agreement and cost of the importances of a protocol's methods, measured on the same networks."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from pydantic import ValidationError
from torch import Tensor

from clreg_plugins import EWCPlugin, fisher_diagonal
from clreg_plugins.diagnostics import Agreement, agreement
from clreg_plugins.importance.engine.data import drawn_rows
from study.errors import ProtocolError
from study.protocol.schema import Protocol
from study.protocol.settings import EWC, OnlineEWC, Scenario
from study.protocol.validation_messages import validation_messages
from study.records.importance_agreement import (
    IN_THE_PASS,
    AgreementError,
    ImportanceAgreement,
    exact_methods,
    settings_of,
)
from study.run.batches import Columns, InMemoryLoader, columns_of
from study.run.instruments import sum_of_importance
from study.run.methods import pass_batch
from study.run.run_environment import RunEnvironment
from study.run.seeds import derived_seed
from study.run.specification import Run
from study.run.system import git_commit, processor
from study.run.timing import Turn, interleave
from study.run.trainer import Learner, torch_threads

PASSES = 3  # of each kind, in turns; their median counts


def measure_agreement(
    name: str,
    protocol: Protocol,
    scenario: Scenario,
    seed: int,
    environment: RunEnvironment,
    known: Sequence[ImportanceAgreement] = (),
) -> Iterator[list[ImportanceAgreement]]:
    """Train without a penalty and, after each experience, measure the importance of every EWC method of the protocol.

    Args:
        name, protocol: with a method of kind "naive" and an EWC with the exact Fisher on all samples.
        scenario, seed, environment: of the run.
        known: rows of an interrupted call. The network is trained again to the same weights, and these rows are kept if
            they have a trace.

    Yields:
        The rows of each experience.

    Raises:
        ProtocolError: the protocol lacks one of these methods.
        DataError: the data is not there.
        AgreementError: a measure of agreement is undefined.
    """
    naive, methods, exact = _methods(name, protocol)
    run = Run.of(name, protocol, scenario, naive, seed)
    with torch_threads(1):
        learner = Learner(run, environment)
        for index, experience in enumerate(learner.benchmark.train_stream):
            learner.learn(index)
            there = [row for row in known if row.where[:-1] == (scenario, seed, index)]
            rows = [row for row in there if row.belongs_to(protocol) and row.trace is not None]
            if {row.method for row in rows} == set(methods):
                yield rows
                continue
            columns = columns_of(experience.dataset, torch.device("cpu"))
            batches = -(-len(columns[0]) // run.training.batch_size)
            steps = run.training.iterations or run.training.epochs * batches
            epoch = learner.state.seconds.training[-1] / steps * batches
            found, seconds = _measured(learner, columns, {m: protocol.methods[m] for m in methods}, index)
            yield [
                _row(protocol, (scenario, seed, index, m), (seconds[m], epoch), found[m], found[exact]) for m in methods
            ]


def _methods(name: str, protocol: Protocol) -> tuple[str, list[str], str]:
    naive = [method for method, settings in protocol.methods.items() if settings.kind == "naive"]
    methods = [method for method, settings in protocol.methods.items() if isinstance(settings, EWC | OnlineEWC)]
    exact = exact_methods(protocol)
    if not naive or not exact:
        missing = "an EWC with the exact Fisher on all samples" if naive else "a method of kind 'naive'"
        raise ProtocolError(f"{name} has no importances to compare: it needs {missing}")
    return naive[0], methods, exact[0]


def _measured(
    learner: Learner, columns: Columns, methods: Mapping[str, EWC | OnlineEWC], experience: int
) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, float]]:
    """Each method's importance and median seconds."""
    found: dict[str, Mapping[str, Tensor]] = {}

    def measure(method: str) -> None:
        found[method] = _importance(learner, columns, methods[method], experience)

    seconds = interleave({method: Turn(partial(measure, method)) for method in methods}, PASSES, time.perf_counter)
    return found, {method: statistics.median(times) for method, times in seconds.items()}


def _row(
    protocol: Protocol,
    where: tuple[Scenario, int, int, str],
    times: tuple[float, float],
    importance: Mapping[str, Tensor],
    exact: Mapping[str, Tensor],
) -> ImportanceAgreement:
    """``times``: seconds of the pass, and of a training epoch."""
    scenario, seed, experience, method = where
    measured = _agreement(importance, exact)
    seconds, epoch = times
    try:
        return ImportanceAgreement(
            scenario=scenario,
            seed=seed,
            experience=experience,
            method=method,
            settings=settings_of(protocol, method),
            torch=torch.__version__,
            processor=processor(),
            commit=git_commit() or "",
            seconds=seconds,
            epochs=seconds / epoch,
            entries=measured.n,
            trace=sum_of_importance(importance),
            **{name: getattr(measured, name) for name in ("spearman", "pearson", "cosine", "ratio")},
        )
    except ValidationError as error:
        raise AgreementError(
            f"{scenario}, seed {seed}, experience {experience}: how alike {method} and the exact Fisher are is not "
            f"defined ({'; '.join(validation_messages(error))}); one of them is the same for all weights"
        ) from error


def _importance(learner: Learner, columns: Columns, settings: EWC | OnlineEWC, experience: int) -> Mapping[str, Tensor]:
    """The importance that the method's own plugin measures, with the data in memory."""
    options = settings.model_dump(include=IN_THE_PASS) | {"batch_size": pass_batch(settings)}
    plugin = EWCPlugin(0.0, **options, seed=derived_seed(learner.run.seed, "importance"))
    batched = plugin.fisher == "batched"
    with plugin.reading.arguments(learner.strategy, experience, batches_matter=batched) as (options, _):
        learner.strategy.experience = learner.calls[experience]  # by which its forward knows that there are task labels
        n_samples, batch_size = options.pop("n_samples"), options.pop("batch_size")
        if n_samples is not None:
            rows = drawn_rows(len(columns[0]), n_samples, torch.Generator().manual_seed(options["seed"]))
            columns = [column[rows] for column in columns]
        data = InMemoryLoader(columns, batch_size)
        return fisher_diagonal(learner.state.model, data, variant=plugin.fisher, draws=plugin.draws, **options)


def _agreement(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Agreement:
    """Over the entries that are not 0 in both."""
    masks = {name: (a[name] != 0) | (b[name] != 0) for name in a}
    kept = [name for name, mask in masks.items() if mask.any()]
    return agreement(*({name: side[name][masks[name]] for name in kept} for side in (a, b)))
