"""Errors that a user can put right, and exit codes."""

SOME_RUNS_FAILED, CANNOT_GO_ON, INTERRUPTED = 1, 2, 130


class StudyError(ValueError):
    """An error that the user can fix. The message names the value, where it came from, and what is allowed."""


class ProtocolError(StudyError):
    """The protocol cannot be used."""


class MissingRecords(StudyError):
    """There are no records; ``written_by`` is the command that writes them, "run" or "tune"."""

    def __init__(self, message: str, written_by: str) -> None:
        super().__init__(message)
        self.written_by = written_by
