"""Whether something has become slower since it was recorded."""

import math
from collections.abc import Iterable

from study.bench.pass_times import FASTER
from study.bench.record import BenchError, Measurement, Performance

FACTOR = 1.5
"""By which a ratio may be worse than the recorded one: a quick measurement on a machine that does other things."""

NEGLIGIBLE = 0.1
"""Values below it are taken for it: twice next to nothing is next to nothing."""


def regressions(now: Performance, recorded: Performance, factor: float = FACTOR) -> list[str]:
    """What is worse than it was, one line each.

    That is this project's ratios that are worse or no number at all, what fails now or is missing beside other
    measurements of the same kind, and passes that no longer agree.

    Args:
        now: measured quickly; models and settings that it left out are not compared.
        recorded: what to compare with.
        factor: allowed between the medians.

    Raises:
        BenchError: the two have no ratio in common.
    """
    before = {each.key: each for each in recorded.measurements if _comparable(each)}
    common = [(each, before[each.key]) for each in now.measurements if each.key in before]
    lost = _lost(now, before.values())
    if not common and not lost:
        raise BenchError("nothing that was measured now is among the recorded measurements; record them first")
    lines = [
        f"{each.title}: {each.median:.2f}, recorded {old.median:.2f}"
        for each, old in common
        if not worsening(each, old) <= factor
    ]
    lines += lost
    for part in now.parts.values():
        lines += [
            f"{each.mode}, {each.model}, {each.setting}: {each.difference:.2g} off {each.reference}"
            for each in part.agreements
            if each.mode.endswith(", ours") and not each.holds
        ]
    return lines


def _comparable(recorded: Measurement) -> bool:
    return recorded.ours and recorded.relative and math.isfinite(recorded.median)


def _lost(now: Performance, recorded: Iterable[Measurement]) -> list[str]:
    """What was recorded and is not measured any more, although others are in its part, on its model, in its setting."""
    keys = {each.key for each in now.measurements}
    reasons = {
        (each.part, each.model, each.setting, each.mode): each.reason
        for part in now.parts.values()
        for each in part.skipped
    }
    looked_at = {(each.part, each.model, each.setting) for each in now.measurements} | {key[:3] for key in reasons}
    lost: dict[tuple[str, ...], str] = {}
    for each in recorded:
        key = (each.part, each.model, each.setting, each.mode)
        depends_on_others = each.quantity.startswith(FASTER)  # which need not be installed here
        if each.key not in keys and key[:3] in looked_at and not depends_on_others:
            reason = reasons.get(key, "it is missing")
            lost[key] = f"{each.mode}, {each.model}, {each.setting}: recorded, and not measured now: {reason}"
    return list(lost.values())


def worsening(now: Measurement, recorded: Measurement) -> float:
    """The factor by which a median is worse; below 1 if it is better, NaN if it is no number."""
    a, b = (each.median if math.isnan(each.median) else max(each.median, NEGLIGIBLE) for each in (now, recorded))
    return a / b if now.better == "lower" else b / a
