"""The record that counts among several of one run."""

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from study.records.run_record import RunRecord

Key = TypeVar("Key", bound=Hashable)


def deduplicate(records: Iterable[RunRecord], key: Callable[[RunRecord], Key]) -> dict[Key, RunRecord]:
    """The latest record for each key; a failed one only if there is no other.

    A failure is a property of the machine, such as full memory, so it does not hide a result. Divergence is a property
    of the run, so it is kept.

    Returns:
        By key, in the order of first appearance.
    """
    records = list(records)
    found = {key(record): record for record in records}  # for the order
    return found | {key(record): record for record in sorted(records, key=_age)}


def _age(record: RunRecord) -> tuple[object, ...]:
    """Ordered by outcome and time; ties are broken deterministically."""
    return record.final, record.ended, record.id, record.run.label
