"""Which records belong to a protocol."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from study.errors import StudyError
from study.protocol import FIRST_TUNING_SEED, Protocol, ProtocolError
from study.records import Run, RunRecord
from study.reporting.numbers import count
from study.settings import Method, Scenario
from study.tuning import Choice, choose, resolve, tuning_runs

OTHER_SETTINGS = "other settings than the protocol's"
VALIDATION = "evaluated on validation data"
TUNING_SEED = f"seeds from {FIRST_TUNING_SEED} on"
OLDER = "older records of runs that are in the report (other versions or another device)"
OUTSIDE_GRID = "not of the protocol's search"


class ReportError(StudyError):
    """A report that cannot be written, and why."""


@dataclass(frozen=True)
class MethodRuns:
    """The records of one method in one scenario.

    Attributes:
        scenario, method: which.
        settings: the method's kind and options.
        strength: λ; None for a method that has none.
        records: one a seed, in the order of the seeds; at least one.
    """

    scenario: Scenario
    method: str
    settings: Method
    strength: float | None
    records: tuple[RunRecord, ...]


@dataclass(frozen=True)
class Selection:
    """What a report is about.

    Attributes:
        name, protocol: the protocol.
        runs: by scenario and method, in the protocol's order; those without a record are not in it.
        tuning: the records of the search, in the order of scenario, method, grid and seed.
        choices: what the search chose.
        left_out: how many of the records given were not used, by reason.
    """

    name: str
    protocol: Protocol
    runs: tuple[MethodRuns, ...]
    tuning: tuple[RunRecord, ...]
    choices: tuple[Choice, ...]
    left_out: dict[str, int]

    @property
    def records(self) -> list[RunRecord]:
        """The records used, each once, in the order of scenario, method and seed."""
        return list({record.id: record for runs in self.runs for record in runs.records}.values())

    @property
    def left_out_sentence(self) -> str:
        """How many records were left out, and why; empty if none was."""
        if not self.left_out:
            return ""
        reasons = "; ".join(f"{number} {reason}" for reason, number in self.left_out.items())
        return f"{count(sum(self.left_out.values()), 'record')} left out: {reasons}."


def select(name: str, protocol: Protocol, records: Sequence[RunRecord], tuning: Sequence[RunRecord]) -> Selection:
    """The records of the runs that a protocol means, of any device.

    A record belongs to it if what determined its result, versions apart, is what the protocol says now. Of several
    records of one scenario, method and seed the latest counts.

    Args:
        name, protocol: the protocol, which may leave a λ to the search ("tuned").
        records: any.
        tuning: any; those of the protocol's search choose the λs that it leaves to it.

    Raises:
        ReportError: none belongs to it, or a λ that the search shall choose has not been chosen.
    """
    found_by_search, outside = _of_the_search(name, protocol, tuning)
    choices = tuple(choose(name, protocol, found_by_search))
    meant, undecided = _meant(name, protocol, choices)
    for record in records:
        missing = undecided.get((record.run.scenario, record.run.label))
        if missing is not None and record.run.evaluated_on == "test":
            raise ReportError(f"a record of {record.run} is there, but {missing}")
    latest: dict[tuple[Scenario, str, int], RunRecord] = {}
    reasons: list[str] = []
    for record in sorted(records, key=_age):
        places = meant.get(_regardless_of_seed(record.run), ())
        if record.run.evaluated_on == "validation":
            reasons.append(VALIDATION)
        elif record.run.seed >= FIRST_TUNING_SEED:
            reasons.append(TUNING_SEED)
        elif not places:
            reasons.append(OTHER_SETTINGS)
        else:
            keys = [(scenario, method, record.run.seed) for scenario, method in places]
            reasons += [OLDER] if keys[0] in latest and latest[keys[0]].id != record.id else []
            latest.update(dict.fromkeys(keys, record))
    if not latest:
        raise ReportError(_why_none(name, protocol, records, choices))
    runs = _grouped(name, protocol, choices, latest)
    left_out = dict(sorted(Counter(reasons + outside).items()))
    return Selection(name, protocol, runs, found_by_search, choices, left_out)


def _meant(
    name: str, protocol: Protocol, choices: Sequence[Choice]
) -> tuple[dict[str, list[tuple[Scenario, str]]], dict[tuple[Scenario, str], str]]:
    """Which scenarios and methods a content stands for (two methods may be the same), and what the search lacks."""
    meant: dict[str, list[tuple[Scenario, str]]] = {}
    undecided: dict[tuple[Scenario, str], str] = {}
    for scenario in protocol.scenarios:
        for method in protocol.methods:
            try:
                settings, strength = resolve(name, protocol, scenario, method, choices)
            except ProtocolError as error:
                undecided[scenario, method] = str(error)
                continue
            run = Run.of(name, protocol, scenario, method, 0, settings=settings, strength=strength)
            meant.setdefault(_regardless_of_seed(run), []).append((scenario, method))
    return meant, undecided


def _grouped(
    name: str,
    protocol: Protocol,
    choices: Sequence[Choice],
    latest: dict[tuple[Scenario, str, int], RunRecord],
) -> tuple[MethodRuns, ...]:
    groups = []
    for scenario in protocol.scenarios:
        for method in protocol.methods:
            seeds = sorted(seed for s, m, seed in latest if (s, m) == (scenario, method))
            if seeds:
                settings, strength = resolve(name, protocol, scenario, method, choices)
                records = tuple(latest[scenario, method, seed] for seed in seeds)
                groups.append(MethodRuns(scenario, method, settings, strength, records))
    return tuple(groups)


def _of_the_search(
    name: str, protocol: Protocol, tuning: Sequence[RunRecord]
) -> tuple[tuple[RunRecord, ...], list[str]]:
    """The records of the protocol's search in its order, under its names, and a reason for each that is not."""
    if protocol.tuning is None or not protocol.tuning.grid:
        return (), [OUTSIDE_GRID] * len(tuning)
    runs: dict[str, list[Run]] = {}
    for run in tuning_runs(name, protocol, protocol.scenarios, list(protocol.methods)):
        runs.setdefault(_regardless_of_device(run), []).append(run)
    latest: dict[str, RunRecord] = {}
    reasons = []
    for record in sorted(tuning, key=_age):
        content = _regardless_of_device(record.run)
        if content not in runs:
            reasons.append(OUTSIDE_GRID)
            continue
        reasons += [OLDER] if content in latest and latest[content].id != record.id else []
        latest[content] = record
    found = []
    for content, same in runs.items():
        if content in latest:
            record = latest[content]
            names = ({"protocol": run.protocol, "label": run.label} for run in same)
            found += [record.model_copy(update={"run": record.run.model_copy(update=these)}) for these in names]
    return tuple(found), reasons


def _age(record: RunRecord) -> tuple[str, ...]:
    """When it ended; of those that ended in the same second always the same comes first."""
    return record.ended, record.id, record.run.label


def _regardless_of_seed(run: Run) -> str:
    return run.model_copy(update={"seed": 0, "device": "cpu"}).content


def _regardless_of_device(run: Run) -> str:
    return run.model_copy(update={"device": "cpu"}).content


def _why_none(name: str, protocol: Protocol, records: Sequence[RunRecord], choices: Sequence[Choice]) -> str:
    """Why a report has no records, with what differs in the first that has the scenario and method of the protocol."""
    if not records:
        return f"there are no records to report on; `clreg-study run {name}` writes them"
    message = f"none of the {count(len(records), 'record')} given belongs to {name}"
    for record in records:
        run = record.run
        if run.scenario in protocol.scenarios and run.label in protocol.methods:
            try:
                settings, strength = resolve(name, protocol, run.scenario, run.label, choices)
            except ProtocolError:
                continue
            ours = Run.of(name, protocol, run.scenario, run.label, run.seed, settings=settings, strength=strength)
            return f"{message}: that of {run} differs in {_differences(run, ours)}"
    return message


def _differences(run: Run, ours: Run) -> str:
    return (
        "; ".join(
            f"{key} ({theirs}, in the protocol {mine})"
            for key, theirs, mine in _leaves(run.model_dump(mode="json"), ours.model_dump(mode="json"))
            if key not in ("protocol", "label", "seed", "device") and theirs != mine
        )
        or f"its seed, {run.seed}"
    )


def _leaves(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any, Any]]:
    for key in dict.fromkeys((*one, *other)):
        theirs, mine = one.get(key), other.get(key)
        if isinstance(theirs, dict) and isinstance(mine, dict):
            yield from _leaves(theirs, mine, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", theirs, mine
