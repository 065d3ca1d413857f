"""Of several records of one run, the one that counts."""

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from study.records.run_record import RunRecord

Key = TypeVar("Key", bound=Hashable)


def deduplicate(records: Iterable[RunRecord], key: Callable[[RunRecord], Key]) -> dict[Key, RunRecord]:
    """For each key the record that ended last; one that failed counts only where no other is there.

    That a run failed says something of the machine, as its memory was full, and must not hide what the run comes to.
    That it diverged is what it comes to.

    Args:
        records: in any order.
        key: what two records of one run have in common.

    Returns:
        Keys in the order in which they come first.
    """
    records = list(records)
    found = {key(record): record for record in records}  # for the order
    return found | {key(record): record for record in sorted(records, key=_age)}


def _age(record: RunRecord) -> tuple[object, ...]:
    """Ordered by outcome and time; ties are broken deterministically."""
    return record.outcome != "failed", record.ended, record.id, record.run.label
