"""All numbers of a report, computed once."""

from collections import Counter
from dataclasses import dataclass, field

from study.protocol.schema import Protocol
from study.protocol.settings import Scenario
from study.report.attachments import Attachments, Conclusions
from study.report.comparisons import LEVEL, PublishedRow, against_published, compare_methods
from study.report.method_results import MethodResult
from study.report.number_formats import count, points, seeds_of
from study.report.selection import Selection
from study.statistics import FamilyComparison, fewest_pairs


@dataclass(frozen=True)
class Analysis:
    """Everything that a report says in numbers."""

    selection: Selection
    published: tuple[PublishedRow, ...]
    pairs: dict[Scenario, list[FamilyComparison]]
    attachments: Attachments = field(default_factory=Attachments)

    @property
    def results(self) -> tuple[MethodResult, ...]:
        return self.selection.results

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
        return list(self.pairs)

    @property
    def every_pair(self) -> list[FamilyComparison]:
        """Those of all scenarios."""
        return [pair for pairs in self.pairs.values() for pair in pairs]

    def of(self, scenario: Scenario) -> list[MethodResult]:
        return [result for result in self.results if result.scenario == scenario]

    def finished(self, scenario: Scenario) -> list[MethodResult]:
        """The results of one scenario that have at least one finished run."""
        return [result for result in self.of(scenario) if result.finished]

    @property
    def counted(self) -> list[PublishedRow]:
        """The published numbers that verdicts are counted over: all but context."""
        return [row for row in self.published if not row.context]

    @property
    def verdicts(self) -> Counter[str]:
        return Counter(row.verdict for row in self.counted)

    @property
    def differing_pairs(self) -> str:
        """How many pairs differ significantly, of those with enough seeds; empty if none has."""
        tested = [pair for pair in self.every_pair if pair.reachable]
        return f"{sum(pair.significant for pair in tested)} of {len(tested)}" if tested else ""

    @property
    def seeds(self) -> str:
        """Finished seeds of a method, of those with any; empty without any."""
        numbers = sorted({len(result.scores) for result in self.results if result.scores})
        if len(numbers) > 1:
            return f"{numbers[0]} to {count(numbers[-1], 'seed')}"
        return count(numbers[0], "seed") if numbers else ""

    @property
    def runs(self) -> str:
        """Finished runs, of those asked for if some are missing."""
        protocol = self.protocol
        asked = len(protocol.scenarios) * len(protocol.methods) * protocol.seeds
        finished = [record for result in self.results for record in result.finished]
        within = sum(record.run.seed < protocol.seeds for record in finished)
        return seeds_of(within, asked) if within < asked else str(len(finished))

    @property
    def unfinished(self) -> str:
        """Runs that ended early, by outcome; empty if none."""
        outcomes = Counter(record.outcome for result in self.results for record in result.unfinished)
        return ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))

    @property
    def status(self) -> str:
        """One sentence on seeds, runs, verdicts and pairs."""
        runs = f"{self.runs} runs finished" + (f", {self.unfinished}" if self.unfinished else "")
        verdicts = ", ".join(f"{number} {verdict}" for verdict, number in self.verdicts.items())
        verdicts = f"published numbers: {verdicts}" if verdicts else ""
        pairs = f"{self.differing_pairs} pairs of methods differ significantly" if self.differing_pairs else ""
        return "; ".join(filter(None, (self.seeds, runs, verdicts, pairs))) + "."

    @property
    def finding(self) -> str:
        """A sentence for each scenario on the best method and the next, and whether they differ significantly."""
        return " ".join(filter(None, map(self._best, self.scenarios)))

    def _best(self, scenario: Scenario) -> str:
        ranked = [result for result in self.finished(scenario) if not result.is_reference]
        ranked.sort(key=lambda result: -result.accuracy.mean)
        if not ranked:
            return ""
        best, *others = ranked
        said = (
            f"{scenario.capitalize()}-incremental: `{best.method}` has the highest average accuracy, "
            f"{points(best.accuracy.mean)}% over {count(len(best.scores), 'seed')}"
        )
        if not others:
            return f"{said}."
        said += f", and `{others[0].method}` the next, {points(others[0].accuracy.mean)}%"
        for pair in self.pairs[scenario]:
            if {pair.a, pair.b} == {best.method, others[0].method}:
                if pair.reachable:
                    return f"{said}; the difference is {'' if pair.significant else 'not '}significant."
                over = f"{count(pair.comparison.n, 'seed')} and {count(pair.size, 'pair')}"
                fewest = fewest_pairs(LEVEL / pair.size)
                return f"{said}; with {over} no difference can be significant, with {fewest} seeds it could."
        return f"{said}."


def analyse(selection: Selection, attachments: Attachments | None = None) -> Analysis:
    by_scenario: dict[Scenario, list[MethodResult]] = {}
    for result in selection.results:
        by_scenario.setdefault(result.scenario, []).append(result)
    families = selection.protocol.families
    pairs = {scenario: compare_methods(results, families) for scenario, results in by_scenario.items()}
    published = tuple(against_published(selection.protocol, selection.results))
    return Analysis(selection, published, pairs, attachments or Attachments())
