"""Files of records: one JSON file for each run, or a compressed archive.

What lies in a file is checked whole when it is read: types, ranges and shapes, see :class:`RunRecord`; its ``id``, the
hash of the settings and versions that it names; its name, which says scenario, method, seed and id; and its checksum.
These find damage and edits by hand, not a forger, who can compute them too.

A file of a single record needs its checksum. Archives of earlier versions have none: in an archive a record without
one is read, checked by gzip's CRC only, and written again without one, so that the bytes of a report do not change.
"""

import gzip
import json
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from study.atomic import is_cut_short, write_atomically
from study.errors import MissingRecords, StudyError
from study.protocol.validation_messages import validation_messages
from study.records.run_record import RECORD_NAME, RunRecord, checksum_of
from study.run.specification import Run, identity

ARCHIVE = "records.jsonl.gz"

TUNING_ARCHIVE = "tuning.jsonl.gz"
"""In the folder of a report: the records of the search."""


class RecordError(StudyError):
    """A record or a folder of records cannot be used."""


@dataclass(frozen=True)
class Contents:
    """The content of a folder of records."""

    folder: Path
    records: list[RunRecord]
    """By file name."""
    damaged: Mapping[Path, RecordError]
    """Files named like records that cannot be used, so runs are lost, and why."""
    foreign: list[Path]
    """Other JSON files."""

    def whole(self, *, or_none: bool = False) -> list[RunRecord]:
        """The records, if none is damaged.

        Raises:
            RecordError: one is damaged.
            MissingRecords: there is none, unless ``or_none``.
        """
        for error in self.damaged.values():
            raise error
        if not self.records and not or_none:
            raise MissingRecords(f"there are no records in {self.folder}", "run")
        return self.records

    @property
    def left_out(self) -> list[str]:
        """One sentence for each kind of file that was left out."""
        return [
            f"left out, {what}: {', '.join(path.name for path in paths)}"
            for what, paths in (
                ("damaged or of another version (delete them to run them again)", self.damaged),
                ("no records", self.foreign),
            )
            if paths
        ]


@dataclass(frozen=True)
class RunStore:
    """A folder of records, created with the first record."""

    folder: Path

    def path(self, run: Run) -> Path:
        return self.folder / run.file_name

    @property
    def under_way(self) -> Path:
        """Folder of the checkpoints of unfinished runs."""
        return self.folder / "under-way"

    def read(self, run: Run) -> RunRecord | None:
        """The record of a run; None if there is none.

        Raises:
            RecordError: the file is not the record of this run.
        """
        return _read(self.path(run))

    def archived(self) -> list[RunRecord]:
        """The records of the folder's archive; none if it has none.

        Raises:
            RecordError: it is damaged.
        """
        return _archive_or_none(self.folder / ARCHIVE)

    def read_all(self, *, or_none: bool = False) -> list[RunRecord]:
        """Every record of the folder and its archive, by file name; other JSON files are left out.

        Raises:
            RecordError, MissingRecords: as :meth:`Contents.whole`.
        """
        return self.contents().whole(or_none=or_none)

    def contents(self) -> Contents:
        """Every record of the folder and its archive, and the files that are none.

        Raises:
            RecordError: the archive is damaged.
        """
        records = {record.file_name: record for record in self.archived()}
        damaged: dict[Path, RecordError] = {}
        foreign: list[Path] = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                record = _read(path)
                if record is not None and (record.final or not records.get(path.name, record).final):
                    records[path.name] = record  # a failure hides no result
            except RecordError as error:
                if RECORD_NAME.fullmatch(path.name):
                    damaged[path] = error
                else:
                    foreign.append(path)
        return Contents(self.folder, [records[name] for name in sorted(records)], damaged, foreign)

    def write(self, record: RunRecord) -> None:
        """Write a record with its checksum, replacing an earlier one of the same run."""
        write_atomically(self.folder / record.file_name, (record.sealed().model_dump_json(indent=1) + "\n").encode())

    def put_aside(self, runs: Sequence[Run]) -> None:
        """Move the records of runs into ``superseded`` and delete their checkpoints.

        Raises:
            RecordError: the folder's archive has one of them.
        """
        wanted = {run.id for run in runs}
        if any(record.id in wanted for record in self.archived()):
            raise RecordError(f"{self.folder / ARCHIVE} has runs that --force repeats; move it elsewhere")
        aside = self.folder / "superseded"
        for run in runs:
            if self.path(run).exists():
                aside.mkdir(exist_ok=True)
                places = (aside / f"{run.file_name}{f'.{n}' if n else ''}" for n in count())
                os.replace(self.path(run), next(place for place in places if not place.exists()))
        self.drop_under_way(wanted)

    def drop_under_way(self, ids: Collection[str]) -> None:
        """Delete the checkpoints and progress of runs."""
        for path in self.under_way.glob("*.*"):
            if path.is_file() and path.name.partition(".")[0] in ids:
                path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other studies; the lock ends with the process.

        Raises:
            RecordError: another study holds it.
            OSError: the folder cannot be written to.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(self.folder / ".lock", timeout=0).acquire()
        except Timeout:
            raise RecordError(
                f"another study is writing to {self.folder}; wait for it, or name another --out"
            ) from None
        with lock:
            self._clean()
            yield
            self._clean()

    def _clean(self) -> None:
        """Delete what kills during a write have left."""
        for path in (*self.folder.glob("*.tmp"), *self.under_way.glob("*.tmp")):
            if is_cut_short(path):
                path.unlink(missing_ok=True)


def write_archive(records: Sequence[RunRecord], path: Path) -> None:
    """Write records into one compressed file, the same bytes for the same records."""
    lines = [
        record.model_dump_json(exclude={"checksum"}) if record.checksum is None else record.sealed().model_dump_json()
        for record in records
    ]
    write_atomically(path, gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))


def read_archive(path: Path) -> list[RunRecord]:
    """Read an archive.

    Raises:
        RecordError: the file is not an archive of records.
    """
    try:
        lines = gzip.decompress(path.read_bytes()).splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise RecordError(f"{path} is not an archive of records: {error}") from error
    if not lines:
        raise RecordError(f"{path} is empty")
    records = [_parse_line(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
    first: dict[str, int] = {}
    for number, record in enumerate(records, 1):
        if first.setdefault(record.file_name, number) != number:
            raise RecordError(f"{path}: lines {first[record.file_name]} and {number} are of one run: {record.run}")
    return records


def kept_search(folder: Path) -> list[RunRecord]:
    """The records of the search in a report's folder; none if it has none.

    Raises:
        RecordError: they are damaged.
    """
    return _archive_or_none(folder / TUNING_ARCHIVE)


def _archive_or_none(path: Path) -> list[RunRecord]:
    return read_archive(path) if _is_there(path) else []


def _is_there(path: Path) -> bool:
    """Whether there is a file; RecordError if it is something else: a folder, a pipe, a link to nowhere."""
    there = path.is_file()
    if not there and os.path.lexists(path):
        raise RecordError(f"{path} is no file; move it elsewhere")
    return there


def _read(path: Path) -> RunRecord | None:
    """The record in a file of its own; None if there is none."""
    if not _is_there(path):
        return None
    try:
        return _parse(path.read_bytes(), path)
    except FileNotFoundError:  # deleted meanwhile
        return None


def _parse(text: bytes, path: Path) -> RunRecord:
    """The record in a file of its own."""
    try:
        record = _checked(text)
        if record.checksum is None:
            raise RecordError("it has no checksum; an earlier version wrote it")
        if record.file_name != path.name:
            raise RecordError(f"it holds {record.run}, whose file is {record.file_name}")
    except RecordError as error:
        raise RecordError(f"{path} is no record of this run: {error}; delete it to run it again") from error
    return record


def _parse_line(text: bytes, where: str) -> RunRecord:
    """The record in a line of an archive."""
    try:
        return _checked(text)
    except RecordError as error:
        raise RecordError(f"{where} is no record: {error}; take the file from a copy, or delete it") from error


def _checked(text: bytes) -> RunRecord:
    """A record that is what its id and, if it has one, its checksum say; RecordError says what is wrong."""
    try:
        record = RunRecord.model_validate_json(text, strict=True)
        content = json.loads(text)
    except ValidationError as error:
        raise RecordError(_brief(validation_messages(error)[0])) from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"it is not JSON ({_brief(str(error))})") from error
    if record.checksum is not None and record.checksum != checksum_of(content):
        raise RecordError("it was changed after it was written (its checksum differs)")
    if record.id != identity(content["run"], content["versions"]):
        raise RecordError("its settings or versions were changed after it was written (its id differs)")
    return record


def _brief(text: str) -> str:
    """One line of bounded length: a message may show all of a damaged file."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:100]} … {line[-99:]}"
