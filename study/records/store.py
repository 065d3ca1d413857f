"""Files of records: one JSON file for each run, or a compressed archive."""

import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from study.atomic import write_atomically
from study.errors import MissingRecords, StudyError
from study.records.run_record import RECORD_NAME, RunRecord
from study.run.specification import Run

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
    damaged: list[Path]
    """Files named like records that cannot be read, so runs are lost."""
    foreign: list[Path]
    """Other JSON files."""

    def whole(self, *, or_none: bool = False) -> list[RunRecord]:
        """The records, if none is damaged.

        Raises:
            RecordError: one is damaged.
            MissingRecords: there is none, unless ``or_none``.
        """
        if self.damaged:
            raise _no_record(self.damaged[0])
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
            RecordError: the file is not a record.
        """
        path = self.path(run)
        try:
            return _parse(path.read_bytes(), path)
        except FileNotFoundError:
            return None

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
        records, damaged, foreign = {}, [], []
        archive = self.folder / ARCHIVE
        if archive.is_file():
            records = {record.run.file_name_with(record.id): record for record in read_archive(archive)}
        for path in sorted(self.folder.glob("*.json")):
            try:
                records[path.name] = _parse(path.read_bytes(), path)
            except RecordError:
                (damaged if RECORD_NAME.fullmatch(path.name) else foreign).append(path)
        return Contents(self.folder, [records[name] for name in sorted(records)], damaged, foreign)

    def write(self, record: RunRecord) -> None:
        write_atomically(self.path(record.run), (record.model_dump_json(indent=1) + "\n").encode())

    def put_aside(self, runs: Sequence[Run]) -> None:
        """Move the records of runs into ``superseded`` and delete their checkpoints."""
        aside = self.folder / "superseded"
        for run in runs:
            if self.path(run).exists():
                aside.mkdir(exist_ok=True)
                os.replace(self.path(run), aside / run.file_name)
            for path in self.under_way.glob(f"{run.id}.*"):
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
            for cut_short in (*self.folder.glob("*.tmp"), *self.under_way.glob("*.tmp")):
                cut_short.unlink(missing_ok=True)  # left by a kill during a write
            yield


def write_archive(records: Sequence[RunRecord], path: Path) -> None:
    """Write records into one compressed file, the same bytes for the same records."""
    lines = b"".join(record.model_dump_json().encode() + b"\n" for record in records)
    write_atomically(path, gzip.compress(lines, mtime=0))


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
    return [_parse(line, path) for line in lines]


def kept_search(folder: Path) -> list[RunRecord]:
    """The records of the search in a report's folder; none if it has none.

    Raises:
        RecordError: they are damaged.
    """
    archive = folder / TUNING_ARCHIVE
    return read_archive(archive) if archive.is_file() else []


def _parse(text: bytes, path: Path) -> RunRecord:
    try:
        return RunRecord.model_validate_json(text)
    except ValidationError as error:
        raise _no_record(path) from error


def _no_record(path: Path) -> RecordError:
    return RecordError(f"{path} is not a record of this version; delete it to run it again")
