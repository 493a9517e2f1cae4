"""The setup of a server's process, and the description of how it ended."""

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
    """Let the Linux kernel kill this process when its parent dies; other systems rely on a closed pipe.

    Args:
        parent: the id of the process that started this one; if the parent has already ended, exit.
    """
    if sys.platform == "linux":  # pragma: no branch - the branch is the platform's
        import ctypes  # noqa: PLC0415 - only for the processes of a server

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def importing() -> Iterator[None]:
    """Disable garbage collection for the imports in the block; used only when Firelock's programs start.

    Imports create hardly any garbage, but every 700 new objects would start a collection, and an increasing
    share of these collections would check all objects. Later collections do not check the objects that exist
    at the end of the block.
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
    """Return whether this process can open this many more files; to find out, it opens them briefly."""
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
    """Return the memory of a process (default: this one) in bytes; 0 if the system does not report it.

    macOS reports only the memory of this process, and reports its maximum so far instead of its current
    value.
    """
    if sys.platform == "linux":
        # Errors are suppressed because /proc or a free descriptor may be missing. A worker process that does
        # not report is killed.
        with (
            suppress(OSError, ValueError, IndexError),
            open(f"/proc/{pid or 'self'}/statm", "rb") as numbers,  # noqa: PTH123 - fastest, once a second
        ):
            return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return 0
    if sys.platform == "darwin" and pid is None:
        import resource  # noqa: PLC0415 - not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 0


class _Unclosable(io.TextIOWrapper):
    """A stream of the whole process, which a job cannot close."""

    def close(self) -> None:
        """Flush the stream instead of closing it."""
        self.flush()


def keep_streams_open() -> None:
    """Keep stdout and stderr of the process open, even if a job closes them."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        raw = io.FileIO(descriptor, "w", closefd=False)
        stream = _Unclosable(io.BufferedWriter(raw), errors="backslashreplace", line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def enable_loggers() -> None:
    """Enable Firelock's loggers at their levels; call this after the app was imported.

    By default, `dictConfig` and `fileConfig` disable every existing logger. In a process of Firelock itself,
    these include all of Firelock's loggers, so failed jobs would not be logged.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        is_ours = f"{name}.".startswith(("firelock.", "firelock_"))  # including backends and plugins
        if is_ours and isinstance(logger, logging.Logger):  # not a placeholder
            logger.disabled = False


def describe_exit(code: int | None) -> str:
    """Describe how a process ended, with the name of its signal or its exit code."""
    if code is None:
        return "cause unknown"
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "; possibly out of memory" if -code == signal.SIGKILL else ""
    return f"{name}{hint}"
