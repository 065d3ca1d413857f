"""Which records belong to a protocol."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from study.campaign.strength_search import Choice, choose, content_on_any_device, resolve, tuning_runs
from study.errors import MissingRecords, StudyError
from study.protocol.schema import Protocol
from study.protocol.settings import Scenario
from study.records.deduplicate import deduplicate
from study.records.run_record import RunRecord
from study.report.method_results import MethodResult
from study.report.number_formats import count
from study.report.setting_differences import NAMES, differing, list_differences
from study.run.specification import Run

OTHER_SETTINGS = "other settings than the protocol's"
VALIDATION = "evaluated on validation data"
TUNING_SEED = "seeds of the search"
OLDER = "other records of runs that are in the report (older, or failed)"
OUTSIDE_GRID = "not of the protocol's search"


class ReportError(StudyError):
    """The report cannot be written."""


@dataclass(frozen=True)
class Selection:
    """The records that a report is about.

    Attributes:
        name, protocol: the protocol.
        results: by scenario and method, in the protocol's order; only those with a record.
        tuning: records of the search, by scenario, method, grid and seed.
        choices: of the search.
        left_out: how many records were not used, by reason.
    """

    name: str
    protocol: Protocol
    results: tuple[MethodResult, ...]
    tuning: tuple[RunRecord, ...]
    choices: tuple[Choice, ...]
    left_out: dict[str, int]

    @property
    def records(self) -> list[RunRecord]:
        """The records used, each once, in the order of scenario, method and seed."""
        return list({record.id: record for result in self.results for record in result.records}.values())

    @property
    def left_out_sentence(self) -> str:
        """How many records were left out and why; empty if none."""
        if not self.left_out:
            return ""
        reasons = "; ".join(f"{number} {reason}" for reason, number in self.left_out.items())
        return f"{count(sum(self.left_out.values()), 'record')} left out: {reasons}."


def select(name: str, protocol: Protocol, records: Sequence[RunRecord], tuning: Sequence[RunRecord]) -> Selection:
    """The records of the runs of a protocol.

    A record belongs to it if its content, versions and device apart, is that of the protocol. For each method and
    scenario one device is used, the one with more finished seeds, and the latest record of each seed.

    Args:
        name, protocol: the protocol, which may leave λ to the search ("tuned").
        records, tuning: any records; those of the protocol's search choose λ.

    Raises:
        ReportError: no record belongs to it.
        MissingRecords: the search has not chosen the λ of a record's method.
    """
    found_by_search, outside = _of_the_search(name, protocol, tuning)
    choices = tuple(choose(name, protocol, found_by_search))
    meant, undecided = _meant(name, protocol, choices)
    for record in records:
        missing = undecided.get((record.run.scenario, record.run.label))
        if missing is not None and record.run.evaluated_on == "test":
            raise MissingRecords(f"a record of {record.run} is there, but {missing}", missing.written_by)
    there: dict[tuple[Scenario, str], list[RunRecord]] = {}
    reasons: list[str] = []
    for record in records:
        places = meant.get(_regardless_of_seed(record.run), ())
        if record.run.evaluated_on == "validation":
            reasons.append(VALIDATION)
        elif protocol.tuning and record.run.seed in protocol.tuning.seeds:
            reasons.append(TUNING_SEED)
        elif not places:
            reasons.append(OTHER_SETTINGS)
        else:
            for place in places:
                there.setdefault(place, []).append(record)
    if not there:
        raise ReportError(_why_none(name, protocol, records, choices))
    results = tuple(
        MethodResult(scenario, method, *resolve(protocol, scenario, method, choices), _of_one_device(candidates))
        for (scenario, method), candidates in sorted(there.items(), key=lambda item: _order(protocol, item[0]))
    )
    used = {record.id: record for result in results for record in result.records}
    reasons += _why_not(used, {record.id: record for candidates in there.values() for record in candidates})
    left_out = dict(sorted(Counter(reasons + outside).items()))
    return Selection(name, protocol, results, found_by_search, choices, left_out)


def _meant(
    name: str, protocol: Protocol, choices: Sequence[Choice]
) -> tuple[dict[str, list[tuple[Scenario, str]]], dict[tuple[Scenario, str], MissingRecords]]:
    """Scenarios and methods by run content (two methods may be equal), and what the search has not chosen."""
    meant: dict[str, list[tuple[Scenario, str]]] = {}
    undecided: dict[tuple[Scenario, str], MissingRecords] = {}
    for scenario in protocol.scenarios:
        for method in protocol.methods:
            try:
                settings, strength = resolve(protocol, scenario, method, choices)
            except MissingRecords as error:
                undecided[scenario, method] = error
                continue
            run = Run.of(name, protocol, scenario, method, 0, settings=settings, strength=strength)
            meant.setdefault(_regardless_of_seed(run), []).append((scenario, method))
    return meant, undecided


def _order(protocol: Protocol, place: tuple[Scenario, str]) -> tuple[int, int]:
    scenario, method = place
    return protocol.scenarios.index(scenario), list(protocol.methods).index(method)


def _of_one_device(records: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """A method's records by seed, all of one device."""
    by_device = {
        device: deduplicate(
            (record for record in records if record.run.device == device), lambda record: record.run.seed
        )
        for device in ("cpu", "cuda")
    }
    most = max(by_device.values(), key=lambda by_seed: (sum(r.finished for r in by_seed.values()), bool(by_seed)))
    return tuple(most[seed] for seed in sorted(most))


def _why_not(used: dict[str, RunRecord], candidates: dict[str, RunRecord]) -> list[str]:
    """Why each record of the protocol's runs is not used. Both arguments by id."""
    devices = {_regardless_of_seed(record.run): record.run.device for record in used.values()}
    reasons = []
    for identity in candidates.keys() - used.keys():
        run = candidates[identity].run
        device = devices[_regardless_of_seed(run)]
        reasons.append(OLDER if run.device == device else f"on {run.device} where the report is about runs on {device}")
    return reasons


def _of_the_search(
    name: str, protocol: Protocol, tuning: Sequence[RunRecord]
) -> tuple[tuple[RunRecord, ...], list[str]]:
    """The records of the protocol's search in order, and why each other is not used."""
    if protocol.tuning is None or not protocol.tuning.grid:
        return (), [OUTSIDE_GRID] * len(tuning)
    runs: dict[str, list[Run]] = {}
    for run in tuning_runs(name, protocol, protocol.scenarios, list(protocol.methods)):
        runs.setdefault(content_on_any_device(run), []).append(run)
    counting = deduplicate(tuning, lambda record: content_on_any_device(record.run))
    reasons = [OUTSIDE_GRID for record in tuning if content_on_any_device(record.run) not in runs]
    others = {record.id: counting[content_on_any_device(record.run)] for record in tuning}
    reasons += [OLDER for identity, record in others.items() if identity != record.id]
    found = []
    for content, same in runs.items():
        if content in counting:
            record = counting[content]
            labels = (record.run.model_copy(update={"label": run.label}) for run in same)
            found += [record.model_copy(update={"run": run}) for run in labels]
    return tuple(found), reasons


def _regardless_of_seed(run: Run) -> str:
    return run.model_copy(update={"seed": 0, "device": "cpu"}).content


def _why_none(name: str, protocol: Protocol, records: Sequence[RunRecord], choices: Sequence[Choice]) -> str:
    """Why no record belongs to the protocol, with the differences of the first that could."""
    if not records:
        return "there are no records to report on"
    message = f"none of the {count(len(records), 'record')} given belongs to {name}"
    for record in records:
        run = record.run
        if run.scenario in protocol.scenarios and run.label in protocol.methods:
            try:
                settings, strength = resolve(protocol, run.scenario, run.label, choices)
            except MissingRecords:
                continue
            ours = Run.of(name, protocol, run.scenario, run.label, run.seed, settings=settings, strength=strength)
            differences = list_differences(differing([run, ours], (*NAMES, "device")), "in the protocol ")
            return f"{message}: that of {run} differs in {differences or f'its seed, {run.seed}'}"
    return message
