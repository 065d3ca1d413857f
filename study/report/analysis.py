"""All numbers of a report, computed once."""

from dataclasses import dataclass, field

from study.protocol.schema import Protocol
from study.protocol.settings import Scenario
from study.report.attachments import Attachments
from study.report.comparisons import PublishedRow, Ranks, against_published, compare_methods, ranks_over_scenarios
from study.report.conclusions import Conclusions
from study.report.method_results import MethodResult, method_result
from study.report.selection import Selection
from study.statistics import FamilyComparison


@dataclass(frozen=True)
class Analysis:
    """Everything that a report says in numbers.

    Attributes:
        selection: the records behind it.
        results: by scenario and method, in the protocol's order; only those with a record.
        published: every published number, compared with ours.
        pairs: comparisons between methods by scenario, those that the protocol names.
        ranks: of the methods over scenarios; None if there is too little for it.
        attachments: conclusions and agreement of importances.
    """

    selection: Selection
    results: tuple[MethodResult, ...]
    published: tuple[PublishedRow, ...]
    pairs: dict[Scenario, list[FamilyComparison]]
    ranks: Ranks | None
    attachments: Attachments = field(default_factory=Attachments)

    @property
    def conclusions(self) -> Conclusions:
        return self.attachments.conclusions

    @property
    def name(self) -> str:
        return self.selection.name

    @property
    def protocol(self) -> Protocol:
        return self.selection.protocol

    @property
    def scenarios(self) -> list[Scenario]:
        """Those with a record, in the protocol's order."""
        return list(dict.fromkeys(result.scenario for result in self.results))

    def of(self, scenario: Scenario) -> list[MethodResult]:
        return [result for result in self.results if result.scenario == scenario]

    def finished(self, scenario: Scenario) -> list[MethodResult]:
        """The results of one scenario that have at least one finished run."""
        return [result for result in self.of(scenario) if result.finished]


def analyse(selection: Selection, attachments: Attachments | None = None) -> Analysis:
    results = tuple(
        method_result(runs.scenario, runs.method, runs.settings, runs.strength, runs.records) for runs in selection.runs
    )
    pairs = {
        scenario: compare_methods(
            [result for result in results if result.scenario == scenario], selection.protocol.comparisons
        )
        for scenario in dict.fromkeys(result.scenario for result in results)
    }
    published = tuple(against_published(selection.protocol, results))
    ranks = ranks_over_scenarios(results)
    return Analysis(selection, results, published, pairs, ranks, attachments or Attachments())
