"""A process of a server: what it is set up with, and how its end is told."""

from __future__ import annotations

import errno
import gc
import io
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


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


@contextmanager
def importing() -> Iterator[None]:
    """Import in the block, in a program of ours that does nothing else yet, without looking for garbage.

    Imports leave hardly any, but every 700 objects would start a look, and ever more of them at everything
    that is there. What the block leaves is looked at by no later collection either.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def has_descriptors(count: int) -> bool:
    """Return whether this process could open so many more files, by opening them for a moment."""
    opened: list[int] = []
    try:
        opened.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(count))
    except OSError as error:
        return error.errno not in {errno.EMFILE, errno.ENFILE}
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return True


def resident_bytes(pid: int | None = None) -> int:
    """Return how much memory a process has, this one where none is named; 0 where that is not told.

    macOS tells of this process alone, and the most it ever had, which is more than it has now.
    """
    if sys.platform == "linux":
        # Without /proc, or without a descriptor for it: a report that is not made gets this worker process
        # killed.
        with (
            suppress(OSError, ValueError, IndexError),
            open(f"/proc/{pid or 'self'}/statm", "rb") as numbers,  # noqa: PTH123 - once a second: the shortest way
        ):
            return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return 0
    if sys.platform == "darwin" and pid is None:
        import resource  # noqa: PLC0415 - not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 0


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


def enable_loggers() -> None:
    """Firelock's loggers log again, at the levels that they have; call it after the app was imported.

    `dictConfig` and `fileConfig` disable every logger that is there before them unless they are told not to.
    In a process that is Firelock's own all of these were, and no line would tell of a failed job.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        is_ours = f"{name}.".startswith(("firelock.", "firelock_"))  # backends and plugins too
        if is_ours and isinstance(logger, logging.Logger):  # or a place for one
            logger.disabled = False


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
