"""What every module may raise."""


class StudyError(ValueError):
    """Something that a user can put right: the message says what it is, where it comes from and what is allowed."""
