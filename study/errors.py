"""Errors that a user can put right."""


class StudyError(ValueError):
    """An error that the user can fix. The message names the value, where it came from, and what is allowed."""


class ProtocolError(StudyError):
    """The protocol cannot be used."""
