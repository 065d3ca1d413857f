"""Whether something has become slower since it was recorded."""

from study.bench.record import BenchError, Measurement, Performance

FACTOR = 1.5
"""By which a ratio may be worse than the recorded one: a quick measurement on a machine that does other things."""

NEGLIGIBLE = 0.1
"""Values below it are taken for it: twice next to nothing is next to nothing."""


def regressions(now: Performance, recorded: Performance, factor: float = FACTOR) -> list[str]:
    """What is worse than it was, one line each: this project's ratios, and its passes that no longer agree.

    Args:
        now: measured quickly; what it did not measure is not compared.
        recorded: what to compare with.
        factor: allowed between the medians.

    Raises:
        BenchError: the two have no ratio in common.
    """
    before = {each.key: each for each in recorded.measurements if each.ours and each.relative}
    common = [(each, before[each.key]) for each in now.measurements if each.key in before]
    if not common:
        raise BenchError("nothing that was measured now is among the recorded measurements; record them first")
    lines = [
        f"{each.title}: {each.median:.2f}, recorded {old.median:.2f}"
        for each, old in common
        if worsening(each, old) > factor
    ]
    for part in now.parts.values():
        lines += [
            f"{each.mode}, {each.model}, {each.setting}: {each.difference:.2g} off {each.reference}"
            for each in part.agreements
            if each.mode.endswith(", ours") and not each.holds
        ]
    return lines


def worsening(now: Measurement, recorded: Measurement) -> float:
    """The factor by which a median is worse; below 1 if it is better."""
    a, b = max(now.median, NEGLIGIBLE), max(recorded.median, NEGLIGIBLE)
    return a / b if now.better == "lower" else b / a
