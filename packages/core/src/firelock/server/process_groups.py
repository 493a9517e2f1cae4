"""Process groups of jobs, which are killed when the worker process that started them dies in any way.

When a worker process dies, the Linux kernel kills its job processes; on other systems, they end when a pipe
is closed. Both mechanisms affect only the job process itself, not the programs that it has started. A worker
process that was killed by SIGKILL cannot do anything, and no signal handler runs while a job holds the
interpreter. Therefore, a small separate process, the *guard*, waits until a pipe is closed and then kills the
registered groups. The guard runs this file as a program. It does not import any other module of Firelock, and
uses about 10 MB.

Programs that leave the group, for example with `setsid`, are not killed. Windows does not have such groups;
only the job process itself ends there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

HAS_GROUPS = hasattr(os, "killpg")


class GroupGuard:
    """The process groups of this process, and the guard, which runs while groups exist. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._guard: subprocess.Popen[bytes] | None = None

    def add(self, group: int) -> None:
        """Register a group, which the guard kills if this process dies.

        Raises:
            OSError: If the system cannot start the guard.
        """
        if not HAS_GROUPS:
            return
        with self._lock:
            self._groups.add(group)
            try:
                self._send(b"+%d\n" % group)
            except OSError:
                self._groups.discard(group)
                raise

    def kill(self, group: int) -> None:
        """Kill the remaining processes of the group.

        Call this before the group's leader is reaped, because the group's number can be reused after that.
        """
        if not HAS_GROUPS:
            return
        _kill_group(group)
        with self._lock:
            if group not in self._groups:
                return
            self._groups.discard(group)
            if self._groups:
                with suppress(OSError):  # the guard was killed; the next `add` starts another
                    self._send(b"-%d\n" % group)
            else:
                self._stop()

    def _send(self, line: bytes) -> None:
        """Send a line to the guard; if there is no guard, start one with all groups."""
        guard = self._guard
        if guard is not None and guard.stdin is not None:
            try:
                guard.stdin.write(line)
                return
            except BrokenPipeError:  # the guard was killed
                self._stop()
        import subprocess  # noqa: PLC0415 - the guard itself does not need it

        guard = self._guard = subprocess.Popen(  # noqa: S603 - Firelock's own interpreter and file
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd=os.sep,
            start_new_session=True,  # so that neither a terminal nor a killed group affects it
        )
        assert guard.stdin is not None  # noqa: S101 - it is a pipe
        guard.stdin.write(b"".join(b"+%d\n" % group for group in sorted(self._groups)))

    def _stop(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None and guard.stdin is not None:
            guard.stdin.close()
            guard.kill()  # there are no groups that it would have to kill
            guard.wait()

    def let_go(self) -> None:
        """Close the pipe in a forked copy of the process, so that it is closed when the original ends."""
        guard, self._guard = self._guard, None
        self._lock, self._groups = threading.Lock(), set()
        if guard is not None and guard.stdin is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, guard.stdin.fileno(), inheritable=False)
            os.close(nowhere)
            guard.returncode = 0  # the guard is not a child of the copy


def _kill_group(group: int) -> None:
    # macOS denies permission if only the dead leader remains.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


# ---- the guard -------------------------------------------------------------------------------------------


def serve(pipe: IO[bytes]) -> None:
    """Wait until the pipe is closed, and kill the groups that were added and not removed."""
    groups: set[int] = set()
    for line in pipe:
        change = groups.add if line.startswith(b"+") else groups.discard
        change(int(line[1:]))
    for group in groups:
        _kill_group(group)


def main() -> None:
    """Run until the worker process has died, and ignore the signals that stop the whole service."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    serve(sys.stdin.buffer)


if __name__ == "__main__":
    main()
