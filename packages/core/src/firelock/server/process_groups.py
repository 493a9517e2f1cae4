"""Process groups of jobs, which end with the worker process that started them, however that dies.

When a worker process dies, the Linux kernel kills its job processes; elsewhere the end of a pipe does. Both
reach that process alone, and not the programs that it has started. A worker process killed by SIGKILL can do
nothing any more, and a job that holds the interpreter runs no handler. So a small process of its own, the
*guard*, waits for the end of a pipe and kills the groups that are registered then. The guard is this file as
a program. It imports no other module of Firelock and takes about 10 MB.

Programs that leave the group, with `setsid` for example, are not reached. Windows has no such groups: there
only the job process itself ends.
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
    """The groups of this process, and the guard, which runs while there is any. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._guard: subprocess.Popen[bytes] | None = None

    def add(self, group: int) -> None:
        """Kill this group if the present process dies.

        Raises:
            OSError: the system cannot start the guard.
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
        """Kill what is left of the group. Call it before its leader is reaped, which frees the number."""
        if not HAS_GROUPS:
            return
        _kill_group(group)
        with self._lock:
            if group not in self._groups:
                return
            self._groups.discard(group)
            if self._groups:
                with suppress(OSError):  # a guard that was killed; the next `add` starts another
                    self._send(b"-%d\n" % group)
            else:
                self._stop()

    def _send(self, line: bytes) -> None:
        """Write to the guard, or start one with all groups."""
        guard = self._guard
        if guard is not None and guard.stdin is not None:
            try:
                guard.stdin.write(line)
                return
            except BrokenPipeError:  # somebody has killed it
                self._stop()
        import subprocess  # noqa: PLC0415 - the guard itself needs none of it

        guard = self._guard = subprocess.Popen(  # noqa: S603 - our own interpreter and file
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd=os.sep,
            start_new_session=True,  # neither a terminal nor the end of a group reaches it
        )
        assert guard.stdin is not None  # noqa: S101 - it is a pipe
        guard.stdin.write(b"".join(b"+%d\n" % group for group in sorted(self._groups)))

    def _stop(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None and guard.stdin is not None:
            guard.stdin.close()
            guard.kill()  # nothing is left to be killed by it
            guard.wait()

    def let_go(self) -> None:
        """Close the pipe in a forked copy of the process, because it has to end with the original."""
        guard, self._guard = self._guard, None
        self._lock, self._groups = threading.Lock(), set()
        if guard is not None and guard.stdin is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, guard.stdin.fileno(), inheritable=False)
            os.close(nowhere)
            guard.returncode = 0  # not a worker process of the copy


def _kill_group(group: int) -> None:
    # macOS denies permission if only the dead leader is left.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


# ---- the guard's own side --------------------------------------------------------------------------------


def serve(pipe: IO[bytes]) -> None:
    """Kill the groups that were added and not removed when the pipe ends."""
    groups: set[int] = set()
    for line in pipe:
        change = groups.add if line.startswith(b"+") else groups.discard
        change(int(line[1:]))
    for group in groups:
        _kill_group(group)


def main() -> None:
    """Serve until the worker process has died. A stop of the whole service signals the guard as well."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    serve(sys.stdin.buffer)


if __name__ == "__main__":
    main()
