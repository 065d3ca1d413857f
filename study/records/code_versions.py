"""Records of one version of the user's own code, so that what an edited method gave is not mixed with what it gives."""

from collections.abc import Mapping, Sequence

from study.protocol.own_code import versions
from study.records.run_record import RunRecord


def of_one_version(
    records: Sequence[RunRecord], current: Mapping[str, str | None] | None = None, again: str = ""
) -> tuple[list[RunRecord], list[str]]:
    """The records that one version of the user's own code gave, and a sentence on those of each other version.

    Args:
        records: any.
        current: see :attr:`study.protocol.schema.Protocol.own_code`; by default the versions of the latest record.
        again: the command that performs the other runs with this version, for the sentence.
    """
    if current is None:
        by_age = sorted(records, key=lambda record: record.ended)
        current = {file: version for record in by_age for file, version in _versions(record).items()}
    by_version: dict[str, list[RunRecord]] = {"": []}
    for record in records:
        others = [f"{file} (hash {of})" for file, of in _versions(record).items() if current.get(file, of) != of]
        by_version.setdefault(others[0] if others else "", []).append(record)
    kept = by_version.pop("")
    sentences = []
    for version, found in by_version.items():
        missing = {_which(record) for record in found} - {_which(record) for record in kept}
        then = f"; to make them again: {again}" if again and missing else ""
        of_all = f"{len(found)} of {len(records)} records"
        sentences.append(f"left out, made with another version of {version}: {of_all}{then}")
    return kept, sentences


def _versions(record: RunRecord) -> dict[str, str | None]:
    return versions(table for table, _ in record.run.own_code)


def _which(record: RunRecord) -> tuple[str, str, int]:
    return record.run.scenario, record.run.label, record.run.seed
