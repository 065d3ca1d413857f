"""Files that are replaced as a whole."""

import os
import re
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that a reader, or a crash, sees either the old one or the new one.

    Raises:
        OSError: the disk is full or the folder cannot be written to; it names the file, which is as it was then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # see is_cut_short
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a full disk names no file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_cut_short(path: Path) -> bool:
    """Whether a file is what a kill left of one that was being written."""
    return path.is_file() and re.fullmatch(r".+\.(json|toml|pt)\.\d+\.tmp", path.name) is not None
