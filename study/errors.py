"""Errors that a user can put right."""


class StudyError(ValueError):
    """Something that a user can put right: the message says what it is, where it comes from and what is allowed."""


class ProtocolError(StudyError):
    """A protocol that cannot be used, and why."""
