"""What the measurements come to, in the sentences that a page begins with."""

from collections.abc import Iterator, Sequence

from study.bench import operations, steps
from study.bench.judging import PEER_NAMES, Judged, judge
from study.bench.pass_times import AVALANCHE, EPOCHS, FASTER
from study.bench.profiling import BEYOND_NAIVE, OF_A_PASS
from study.bench.record import Measurement, Performance
from study.bench.tables import grouped, model_of, number
from study.bench.targets import EXACT, IN_WORDS
from study.report.document import Statement

IMPORTANCES = ("exact Fisher", "sample Fisher", "empirical Fisher", "MAS, squared norm")
OURS = ", ours"

NOT_THE_SAME = "SI, Avalanche"
"""On a CPU it measures nothing: what it takes is no standard. Mended it is one."""

WITHIN_NOISE = 1.05
"""A step that takes no more than so many times another's is not called slower."""

SMALLEST_SHARE = 0.03
"""Of a profile, that is spoken of."""


def costs(performance: Performance) -> Iterator[Statement]:
    """What a step and an importance cost, where others are faster, and what there is to know about missed targets.

    Nothing is said of what was not measured.
    """
    found = performance.measurements
    of_steps = [each for each in found if each.part == "step" and each.quantity == steps.QUANTITY]
    of_passes = [each for each in found if each.part == "pass" and each.quantity == EPOCHS]
    if of_steps:
        parts = (_step_in_words(of_steps, methods, name) for methods, name in IN_WORDS.items())
        text = f"in times of Naive's, over all experiences measured: {'; '.join(filter(None, parts))}."
        yield Statement("What a step costs", text)
    if of_passes:
        parts = (_pass_in_words(of_passes, computes) for computes in IMPORTANCES)
        text = f"in training epochs over the same data, with 10 classes: {'; '.join(filter(None, parts))}."
        yield Statement("What an importance costs", text)
    if of_steps or of_passes:
        faster = [*_faster_steps(of_steps), *_faster_passes(found)]
        yield Statement("Where others are faster", f"{'; '.join(faster) or 'nowhere, of what was measured'}.")
    missed = [each for each in judge(performance) if each.bare and not each.met_throughout]
    parts = [
        f"{each.target.what} ({each.target.text}; bare {number(each.bare.median)})"
        for each in missed
        if not each.target.met(each.bare)
    ]
    if parts:
        yield Statement("Targets that bare PyTorch operations miss, too", f"{'; '.join(parts)}.{_copied(found)}")
    profiles = dict.fromkeys(filter(None, (_profile(each, found) for each in judge(performance))))
    if profiles:
        text = "by kind of operation, in shares of a pass, or beyond Naive's step in shares of that"
        yield Statement("Where the time of what misses its target goes", f"{text}: {'; '.join(profiles)}.")


def _copied(found: Sequence[Measurement]) -> str:
    """What a step comes to whose penalty reads and writes everything once, as no operation of PyTorch's does."""
    copied = [each for each in found if each.quantity == operations.BARE and each.mode.endswith(operations.COPIED)]
    if not copied:
        return ""
    values = "; ".join(f"{each.mode.partition(',')[0]} {number(each.median)} ({each.model})" for each in copied)
    return f" A step whose bytes are copied once, as by a kernel of its own: {values}."


def _step_in_words(found: Sequence[Measurement], methods: Sequence[str], name: str) -> str:
    modes = {f"{method}{OURS}" for method in methods}
    ranges = []
    for model, group in grouped([each for each in found if each.mode in modes], model_of):
        low, high = (number(bound(each.median for each in group)) for bound in (min, max))
        ranges.append(f"{low if low == high else f'{low} to {high}'} ({model})")
    return f"with {name} {', '.join(ranges)}" if ranges else ""


def _pass_in_words(found: Sequence[Measurement], computes: str) -> str:
    mine = [each for each in found if each.mode == f"{computes}{OURS}" and each.setting == "10 classes"]
    return f"{computes} {', '.join(f'{number(each.median)} ({each.model})' for each in mine)}" if mine else ""


def _faster_steps(found: Sequence[Measurement]) -> Iterator[str]:
    """Against the fastest of the others that were measured at the same experience."""
    for each in (each for each in found if each.mode.endswith(OURS)):
        method = each.mode.removesuffix(OURS)
        others = [
            other
            for other in found
            if (other.model, other.setting) == (each.model, each.setting)
            and not other.ours
            and other.mode.startswith(f"{method}, ")
            and other.mode != NOT_THE_SAME
        ]
        best = min(others, key=lambda other: other.median, default=None)
        if best is not None and each.median > WITHIN_NOISE * best.median:
            by = best.mode.removeprefix(f"{method}, ")
            times = number(each.median / best.median)
            yield f"a step with {method} at {each.setting}, {each.model} ({by}, {times} times)"


def _faster_passes(found: Sequence[Measurement]) -> Iterator[str]:
    rivals = {f"{FASTER} {by}": by for by in (*PEER_NAMES, AVALANCHE)}
    least: dict[tuple[str, str, str], Measurement] = {}
    for each in (each for each in found if each.quantity in rivals and round(each.median, 2) < 1):
        key = (each.mode, each.model, each.setting)
        least[key] = min(least.get(key, each), each, key=lambda one: one.median)
    for each in least.values():
        by, times = rivals[each.quantity], number(1 / each.median)
        yield f"{each.mode.removesuffix(OURS)}, {each.model}, {each.setting} ({by}, {times} times)"


def _profile(judged: Judged, found: Sequence[Measurement]) -> str:
    """What the worst of a missed target spends its time on, the most first; empty where no profile is about it."""
    if not judged.measured or judged.met_throughout:
        return ""
    worst = judged.worst
    computes = worst.mode.removesuffix(OURS)
    if worst.part == "step":
        about = (BEYOND_NAIVE, f"{computes}, experience 2")
    else:  # whatever has one cotangent a sample takes what the empirical Fisher does
        about = (OF_A_PASS, f"{computes if computes in EXACT else 'empirical Fisher'}, 10 classes")
    profile = [each for each in found if (each.quantity, each.setting) == about and each.model == worst.model]
    kinds = sorted((each for each in profile if each.median >= SMALLEST_SHARE), key=lambda each: -each.median)
    shares = ", ".join(f"{each.mode} {number(each.median)}" for each in kinds)
    return f"{about[1].partition(',')[0]}, {worst.model}: {shares}" if kinds else ""
