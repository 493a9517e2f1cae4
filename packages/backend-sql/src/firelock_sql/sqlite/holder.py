"""Who holds the file's one writer's place: SQLite says that somebody does, not who.

A thread that waits for a transaction of its own waits in vain, for nothing else will end that. Linux lists
the locks of each process, which leaves open whose they are in it: a transaction that a thread has open may
only have read, while another thread writes. So nobody is sure of it as long as there is anybody else.
"""

from __future__ import annotations

import os
import sys
import time
from inspect import isbuiltin
from pathlib import Path

__all__ = ["is_alone", "is_written_here"]

_LOCKS = Path("/proc/locks")
_WRITERS_PLACE = 120  # the byte of the shared-memory file that a writer locks: "WAL-Index Format" of SQLite
_FIELDS = 8  # of a line: number, POSIX, ADVISORY, WRITE, process, device and inode, first byte, last byte


def is_written_here(path: Path) -> bool | None:
    """Tell whether a transaction of this process writes to the file; None where the system does not say.

    Only listed, never opened: closing the file would end this process's locks on it.
    """
    try:
        inode = str(path.with_name(f"{path.name}-shm").stat().st_ino)
        lines = _LOCKS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) != _FIELDS or (fields[1], fields[3]) != ("POSIX", "WRITE"):
            continue
        first, last = fields[6], fields[7]
        if fields[5].rpartition(":")[2] == inode and first == last == str(_WRITERS_PLACE):
            return fields[4] == str(os.getpid())
    return None  # it ended just now, or is another container's


def is_alone() -> bool:
    """Tell whether nothing else of this process runs while this thread waits, and could end a transaction.

    Neither another thread, however it was started, nor a greenlet, to which a `time.sleep` of its kind gives
    way.
    """
    return len(sys._current_frames()) == 1 and isbuiltin(time.sleep)  # noqa: SLF001 - documented
