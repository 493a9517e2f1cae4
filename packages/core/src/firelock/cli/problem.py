"""How a command ends when it cannot do what was asked: one sentence, a hint, a stable exit code."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Exit", "Problem", "problem_of"]


class Exit(IntEnum):
    """The exit codes; scripts rely on them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    INTERRUPTED = 130


class Problem(Exception):
    """A command ends here, with this sentence, this hint and this exit code."""

    def __init__(self, sentence: str, *, hint: str = "", code: Exit = Exit.FAILED) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint
        self.code = code


def problem_of(error: Exception) -> Problem | None:
    """Return what an error of Firelock means to the person at the command line; None for any other error."""
    from firelock import errors  # noqa: PLC0415 - a command that goes well never needs it

    match error:
        case Problem():
            return error
        case errors.StorageUnavailable():
            hint = "Is it running, and is its address right? firelock doctor looks closer."
            return Problem(str(error), hint=hint, code=Exit.UNREACHABLE)
        case errors.JobNotFound():
            return Problem(str(error), code=Exit.NOT_FOUND)
        case errors.ConfigurationError() | errors.ScheduleError() | errors.TaskError():
            return Problem(str(error), code=Exit.USAGE)
        case errors.FirelockError():
            return Problem(str(error))
        case _:
            return None
