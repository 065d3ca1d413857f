"""The report's first paragraph: what came of it, in words that the analysis decide."""

from collections import Counter
from collections.abc import Iterator, Sequence

from study.protocol.settings import Naive, Scenario
from study.report.analysis import Analysis
from study.report.comparisons import seeds_that_could_show
from study.report.document import Statement
from study.report.method_results import MethodResult
from study.report.number_formats import count, enumeration, interval, points, seeds_of, signed_points
from study.report.provenance import changed_settings
from study.report.verdicts import tally
from study.statistics import FamilyComparison

MOST_NAMES = 4  # in a sentence


def answer(analysis: Analysis) -> tuple[Statement, ...]:
    """What people conclude, and what the records say."""
    return (*analysis.conclusions.statements, *what_the_records_say(analysis))


def what_the_records_say(analysis: Analysis) -> tuple[Statement, ...]:
    """Whether all has been run; what was reproduced, the best method of each scenario, whether seeds suffice, what did
    not finish.
    """
    return (
        *in_short(analysis),
        *(_best(analysis, scenario) for scenario in analysis.scenarios),
        *_too_few_seeds(analysis),
        _runs(analysis),
    )


def in_short(analysis: Analysis) -> Iterator[Statement]:
    """Whether the protocol has been run as it is and as a whole, and what came of its published numbers."""
    changed = changed_settings(analysis.name, analysis.protocol)
    if changed:
        yield Statement("Settings", f"not those of the protocol that comes with the package: {changed}.")
    missing, asked = missing_of_asked(analysis)
    if missing:
        yield Statement(
            "Not complete",
            f"{missing} of the protocol's {asked} runs, {count(analysis.protocol.seeds, 'seed')} of each method and "
            "scenario, are missing; what is said here holds for the seeds so far.",
        )
    if analysis.published:
        yield Statement("Published numbers", tally(analysis.published))


def missing_of_asked(analysis: Analysis) -> tuple[int, int]:
    """How many of the protocol's runs have not ended, and how many it has.

    One that diverged has ended; one that failed is to be run again.
    """
    protocol = analysis.protocol
    asked = len(protocol.scenarios) * len(protocol.methods) * protocol.seeds
    ended = sum(
        record.run.seed < protocol.seeds and record.outcome != "failed"
        for runs in analysis.selection.runs
        for record in runs.records
    )
    return asked - ended, asked


def _best(analysis: Analysis, scenario: Scenario) -> Statement:
    lead = f"{scenario.capitalize()}-incremental"
    learners = [result for result in analysis.finished(scenario) if not result.is_reference]
    references = [result for result in analysis.finished(scenario) if result.is_reference]
    if not learners:
        return Statement(lead, "no run of a continual learner finished.")
    best = max(learners, key=lambda result: result.accuracy.mean)
    of = f"of {len(learners)} continual learners " if len(learners) > 1 else ""
    most = " most," if len(learners) > 1 else ""
    reached = _accuracy(best, analysis.protocol.seeds)
    text = f"{of}`{best.method}` reaches{most} {reached}{_standing(best, learners, analysis.pairs[scenario])}"
    if references:
        upper = enumeration(f"`{result.method}` {points(result.accuracy.mean)}%" for result in references)
        text += f"; with all data at hand, {upper}"
    return Statement(lead, f"{text}.{_over_naive(learners, analysis.pairs[scenario])}")


def _over_naive(learners: Sequence[MethodResult], pairs: Sequence[FamilyComparison]) -> str:
    """What every other learner has over training without any of them, seed by seed; a sentence with a space before it.

    Empty where there is no such method, or nothing beside it.
    """
    naive = next((result for result in learners if isinstance(result.settings, Naive)), None)
    if naive is None:
        return ""
    names = {result.method for result in learners}
    with_naive = [pair for pair in pairs if naive.method in (pair.a, pair.b) and {pair.a, pair.b} <= names]
    if not with_naive:
        return ""
    gains = enumeration(_gain(pair, naive.method) for pair in with_naive)
    note = " (*: significant)" if any(pair.significant for pair in with_naive) else ""
    return f" Over `{naive.method}`, {points(naive.accuracy.mean)}%, paired by seed: {gains}{note}."


def _gain(pair: FamilyComparison, baseline: str) -> str:
    method, difference = (
        (pair.b, -pair.comparison.difference) if pair.a == baseline else (pair.a, pair.comparison.difference)
    )
    return f"`{method}` {signed_points(difference)}{'*' if pair.significant else ''}"


def _accuracy(result: MethodResult, asked: int) -> str:
    summary = result.accuracy
    seeds = f"{seeds_of(summary.n, asked)} {'seed' if max(summary.n, asked) == 1 else 'seeds'}"
    if summary.n == 1:
        return f"{points(summary.mean)}% ({seeds}, no interval)"
    return f"{points(summary.mean)}% (95% interval {interval(summary.low, summary.high)}, {seeds})"


def _standing(best: MethodResult, learners: Sequence[MethodResult], pairs: Sequence[FamilyComparison]) -> str:
    """How sure it is that the best is better than the others; empty where seeds are too few to say."""
    others = [result.method for result in learners if result is not best]
    with_best = {pair.b if pair.a == best.method else pair.a: pair for pair in pairs if best.method in (pair.a, pair.b)}
    tested = [with_best[method] for method in others if method in with_best]
    if not tested or not all(pair.reachable for pair in tested):
        return ""
    close = [method for method in others if method in with_best and not with_best[method].significant]
    if not close:
        return ", significantly more than every other"
    beaten = [method for method in others if method in with_best and with_best[method].significant]
    more = f"significantly more than {_few_or_count(beaten)}, " if beaten and len(close) > MOST_NAMES else ""
    return f", {more}not shown to differ from {_few_or_count(close)}"


def _few_or_count(methods: Sequence[str]) -> str:
    return enumeration(f"`{method}`" for method in methods) if len(methods) <= MOST_NAMES else f"{len(methods)} others"


def _too_few_seeds(analysis: Analysis) -> Iterator[Statement]:
    """One statement for the scenarios where no comparison could have become significant."""
    short = {
        scenario: pairs
        for scenario, pairs in analysis.pairs.items()
        if pairs and not any(pair.reachable for pair in pairs)
    }
    if not short:
        return
    seeds = max(pair.comparison.n for pairs in short.values() for pair in pairs)
    family = max(map(len, short.values()))
    where = "" if len(short) == len(analysis.pairs) else f" in the {enumeration(short)}-incremental scenario"
    yield Statement(
        "Seeds",
        f"too few to tell methods apart{where}: with {count(seeds, 'seed')} and {count(family, 'comparison')} no "
        f"difference can become significant; from {seeds_that_could_show(family)} seeds on one could.",
    )


def _runs(analysis: Analysis) -> Statement:
    outcomes = Counter(record.outcome for runs in analysis.selection.runs for record in runs.records)
    total = sum(outcomes.values())
    unfinished = [f"{outcomes[outcome]} {outcome}" for outcome in ("diverged", "failed") if outcomes[outcome]]
    text = f"{outcomes['finished']} of {total} finished"
    if unfinished:
        text += f"; {enumeration(unfinished)}, and enter no mean"
    missing = sum(len(seeds) for _, _, seeds in missing_runs(analysis))
    if missing:
        text += f"; {missing} of the same seeds {'is' if missing == 1 else 'are'} missing"
    return Statement("Runs", f"{text}.")


def missing_runs(analysis: Analysis) -> list[tuple[Scenario, str, list[int]]]:
    """Scenario, method and seeds of the runs without a record though others have that seed, for methods with any."""
    seeds = sorted({record.run.seed for runs in analysis.selection.runs for record in runs.records})
    found = []
    for runs in analysis.selection.runs:
        there = {record.run.seed for record in runs.records}
        if len(there) < len(seeds):
            found.append((runs.scenario, runs.method, [seed for seed in seeds if seed not in there]))
    return found
