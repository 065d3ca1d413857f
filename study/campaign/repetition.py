"""Repetition of recorded runs, to check that they give the same numbers."""

from study.records.run_record import RunRecord


def difference(before: RunRecord, now: RunRecord) -> str:
    """How two records of one run differ, and what may explain it.

    Returns:
        One line; empty if outcome, accuracies and losses are equal to the last bit.
    """
    if (before.outcome, before.accuracy, before.loss) == (now.outcome, now.accuracy, now.loss):
        return ""
    changes = "; ".join(changed_environment(before, now))
    reasons = f" ({changes})" if changes else ""
    if not now.finished:
        return f"{before.outcome} before, {now.outcome} now: {now.last_line}{now.place}{reasons}"
    if not before.finished:
        return f"{before.outcome} before ({before.last_line}), finished now{reasons}"
    entries = ([value for row in record.accuracy for value in row] for record in (before, now))
    largest = max(abs(a - b) for a, b in zip(*entries, strict=True))  # of one run, so of one shape
    return f"other numbers, accuracies by up to {100 * largest:.2f} points{reasons}"


def changed_environment(before: RunRecord, now: RunRecord) -> list[str]:
    """Versions, machine and code that differ and may change the last bits."""
    found = [
        f"{package} {version}, now {now.versions.get(package)}"
        for package, version in before.versions.items()
        if version != now.versions.get(package)
    ]
    machines = [f"{m.processor} {m.system} {m.gpu or ''}".strip() for m in (before.hardware, now.hardware)]
    for name, (old, new) in {"": machines, "code ": (before.commit, now.commit)}.items():
        if old != new:
            found.append(f"{name}{old}, now {new}")
    return found
