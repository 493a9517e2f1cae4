"""The state of a process that runs jobs: set up before the first of them, and mended after each."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys

__all__ = [
    "ProcessState",
    "describe_exit",
    "die_with_parent",
    "enable_loggers",
    "keep_streams_open",
    "log_to_stderr",
]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


# ---- before the first job --------------------------------------------------------------------------------


def die_with_parent(parent: int) -> None:
    """On Linux the kernel kills this process when its parent dies; elsewhere the end of a pipe has to do.

    Args:
        parent: the process id this process was started by; if it is gone already, exit now.
    """
    if sys.platform == "linux":  # pragma: no branch - the branch is the platform's
        import ctypes  # noqa: PLC0415 - for the processes of a server alone

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


class _Unclosable(io.TextIOWrapper):
    """A stream of the whole process, which no job closes."""

    def close(self) -> None:
        """What was written so far is on its way."""
        self.flush()


def keep_streams_open() -> None:
    """The process's stdout and stderr stay open when a job closes them."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        raw = io.FileIO(descriptor, "w", closefd=False)
        stream = _Unclosable(io.BufferedWriter(raw), errors="backslashreplace", line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def log_to_stderr(level: int) -> None:
    """What is logged from this level on goes to stderr, a line each, alike in all processes of a server.

    For processes that are Firelock's own; one that already has handlers keeps them. The app is imported
    later, so its own `logging.config` wins.
    """
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def enable_loggers() -> None:
    """Firelock's loggers log again, at the levels that they have; call it after the app was imported.

    `dictConfig` and `fileConfig` disable every logger that is there before them unless they are told not to.
    In a process that is Firelock's own all of these were, and no line would tell of a failed job.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        is_ours = f"{name}.".startswith(("firelock.", "firelock_"))  # backends and plugins too
        if is_ours and isinstance(logger, logging.Logger):  # or a place for one
            logger.disabled = False


# ---- after each job --------------------------------------------------------------------------------------


class _Forks:
    """How often this process is a copy of a copy."""

    count = 0


def _count_fork() -> None:
    _Forks.count += 1


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows cannot fork
    os.register_at_fork(after_in_child=_count_fork)


class ProcessState:
    """What a process was like before its first job.

    Only what is broken for everybody is mended after each job. What may be somebody's intent is left alone,
    since other jobs run beside it.
    """

    def __init__(self) -> None:
        self._recursion = sys.getrecursionlimit()
        self._forks = _Forks.count
        self.folder = _folder()
        self.environment = dict(os.environ)
        self.path = [each or self.folder or "." for each in sys.path]  # where modules are found

    def mend(self) -> None:
        """The recursion limit is no lower than before; a copy that a task forked and let return has ended."""
        if self._forks != _Forks.count:
            os._exit(0)
        if sys.getrecursionlimit() < self._recursion:
            sys.setrecursionlimit(self._recursion)

    def restore(self) -> None:
        """For a process that runs one job at a time: mended, and in its former folder."""
        self.mend()
        if self.folder is not None:
            os.chdir(self.folder)


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - a text, as processes take it
    except OSError:  # it was removed
        return None


# ---- after its end ---------------------------------------------------------------------------------------


def describe_exit(code: int | None) -> str:
    """Return how a process ended, for people: its signal's name or its exit code."""
    if code is None:
        return "cause unknown"
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "; out of memory, perhaps" if -code == signal.SIGKILL else ""
    return f"{name}{hint}"
