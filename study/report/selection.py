"""Which records belong to a protocol."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from study.campaign.strength_search import Choice, choose, content_on_any_device, planned_run, tuning_runs
from study.errors import MissingRecords, StudyError
from study.protocol.schema import Protocol
from study.protocol.settings import Scenario
from study.records.deduplicate import deduplicate
from study.records.run_record import RunRecord
from study.report.method_results import MethodResult
from study.report.number_formats import count
from study.report.setting_differences import OF_ONE_KIND, differing, list_differences
from study.run.specification import Run

OTHER_SETTINGS = "other settings than the protocol's"
VALIDATION = "evaluated on validation data"
TUNING_SEED = "seeds of the search"
OLDER = "other records of runs that are in the report (older, failed, or on another device)"
OUTSIDE_GRID = "of a search with other settings than the protocol's"


class ReportError(StudyError):
    """The report cannot be written."""


@dataclass(frozen=True)
class Selection:
    """The records that a report is about.

    Attributes:
        results: by scenario and method, in the protocol's order; only those with a record.
        tuning, choices: records of the search, and what it chose.
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
    found_by_search, reasons = _of_the_search(name, protocol, tuning)
    choices = tuple(choose(name, protocol, found_by_search))
    runs, undecided = _meant(name, protocol, choices)
    there: dict[str, list[RunRecord]] = {_regardless_of_seed(run): [] for run in runs}
    for record in records:
        run, content = record.run, _regardless_of_seed(record.run)
        if run.evaluated_on == "validation":
            reasons.append(VALIDATION)
        elif (run.scenario, run.label) in undecided:
            missing = undecided[run.scenario, run.label]
            raise MissingRecords(f"a record of {run} is there, but {missing}", missing.written_by)
        elif protocol.tuning and run.seed in protocol.tuning.seeds:
            reasons.append(TUNING_SEED)
        elif content not in there:
            reasons.append(OTHER_SETTINGS)
        else:
            there[content].append(record)
    results = tuple(
        MethodResult(run.scenario, run.label, run.method, run.strength, _of_one_device(found))
        for run in runs
        if (found := there[_regardless_of_seed(run)])
    )
    if not results:
        raise ReportError(_why_none(name, runs, records))
    used = {record.id for result in results for record in result.records}
    reasons += [OLDER] * len({record.id for found in there.values() for record in found} - used)
    return Selection(name, protocol, results, found_by_search, choices, dict(sorted(Counter(reasons).items())))


def _meant(
    name: str, protocol: Protocol, choices: Sequence[Choice]
) -> tuple[list[Run], dict[tuple[Scenario, str], MissingRecords]]:
    """A run of each scenario and method, in the protocol's order, and what the search has not chosen."""
    runs: list[Run] = []
    undecided: dict[tuple[Scenario, str], MissingRecords] = {}
    for scenario, method in product(protocol.scenarios, protocol.methods):
        try:
            runs.append(planned_run(name, protocol, scenario, method, 0, choices))
        except MissingRecords as error:
            undecided[scenario, method] = error
    return runs, undecided


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


def _why_none(name: str, runs: Sequence[Run], records: Sequence[RunRecord]) -> str:
    """Why no record belongs to the protocol, with the differences of the first that could."""
    if not records:
        return "there are no records to report on"
    message = f"none of the {count(len(records), 'record')} given belongs to {name}"
    by_place = {(run.scenario, run.label): run for run in runs}
    for run in (record.run for record in records):
        if ours := by_place.get((run.scenario, run.label)):
            ours = ours.model_copy(update={"seed": run.seed})
            differences = list_differences(differing([run, ours], (*OF_ONE_KIND, "device")), "in the protocol ")
            return f"{message}: that of {run} differs in {differences or f'its seed, {run.seed}'}"
    return message


def _regardless_of_seed(run: Run) -> str:
    return run.model_copy(update={"seed": 0, "device": "cpu"}).content
