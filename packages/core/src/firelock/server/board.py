"""What a child and its supervisor tell each other without a message: a few bytes of shared memory.

The supervisor writes until when the child may start jobs, and for the how-manieth of its sessions; the child
writes when it last reported and which job each of its workers runs. It is read after the child has died, so
nothing in it needs an orderly end.

Layout, little-endian: right to run (monotonic ns) · last report (monotonic ns) · busy workers · number of the
session · time on processors (ns) · memory (bytes), then 40 bytes a worker: the id of its job, or zeros.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time

__all__ = ["Board"]

_HEAD = struct.Struct("<qqqqqq")
_RIGHT, _REPORT, _BUSY, _SESSION, _CPU, _RSS = 0, 8, 16, 24, 32, 40
_WIDTH = 40
_ID = 36
_EMPTY = bytes(_ID)
_NANO = 1_000_000_000
_WORD = struct.Struct("<q")


class Board:
    """Shared memory of one child. Instants are of the monotonic clock, which a host's processes share."""

    def __init__(self, descriptor: int, workers: int) -> None:
        self.descriptor = descriptor
        self.workers = workers
        self._memory = mmap.mmap(descriptor, _HEAD.size + workers * _WIDTH)
        self._adopted = 0  # the session that this process starts jobs for

    @classmethod
    def create(cls, workers: int) -> Board:
        """Return a new board, all zeros; its descriptor may be inherited by a child."""
        descriptor, path = tempfile.mkstemp(prefix="firelock-board-")
        os.unlink(path)  # noqa: PTH108 - the descriptor is all that is needed of it
        os.ftruncate(descriptor, _HEAD.size + workers * _WIDTH)
        os.set_inheritable(descriptor, True)
        return cls(descriptor, workers)

    def close(self) -> None:
        """The memory is unmapped and the descriptor closed."""
        self._memory.close()
        os.close(self.descriptor)

    # ---- the right to run --------------------------------------------------------------------------------

    def grant(self, until: float) -> None:
        """The child may start jobs until this instant, in monotonic seconds; 0 takes the right away."""
        _WORD.pack_into(self._memory, _RIGHT, int(until * _NANO))

    def begin_session(self) -> None:
        """The child has another session: it starts nothing until it has adopted it, whatever is granted."""
        _WORD.pack_into(self._memory, _SESSION, self._session() + 1)

    def adopt_session(self) -> None:
        """Nothing that was claimed for a former session is left to be started here."""
        self._adopted = self._session()

    def _session(self) -> int:
        session: int = _WORD.unpack_from(self._memory, _SESSION)[0]
        return session

    def may_start(self) -> bool:
        """Tell whether a job may be started now."""
        right: int = _WORD.unpack_from(self._memory, _RIGHT)[0]
        return time.monotonic_ns() < right and self._session() == self._adopted

    # ---- being alive -------------------------------------------------------------------------------------

    def report(self, busy: int, *, cpu_seconds: float = 0.0, rss_bytes: int = 0) -> None:
        """The child lives, so many of its workers are busy, and its process takes so much.

        Args:
            busy: workers that run a job.
            cpu_seconds: time on processors since the process began.
            rss_bytes: its memory; 0 where the system does not tell it.
        """
        _WORD.pack_into(self._memory, _BUSY, busy)
        _WORD.pack_into(self._memory, _CPU, int(cpu_seconds * _NANO))
        _WORD.pack_into(self._memory, _RSS, rss_bytes)
        _WORD.pack_into(self._memory, _REPORT, time.monotonic_ns())

    @property
    def busy(self) -> int:
        """How many workers were busy at the last report."""
        busy: int = _WORD.unpack_from(self._memory, _BUSY)[0]
        return busy

    @property
    def cpu_seconds(self) -> float:
        """How long the process has been on processors, as it last reported."""
        spent: int = _WORD.unpack_from(self._memory, _CPU)[0]
        return spent / _NANO

    @property
    def rss_bytes(self) -> int:
        """How much memory the process had at the last report; 0 where nobody can tell."""
        memory: int = _WORD.unpack_from(self._memory, _RSS)[0]
        return memory

    @property
    def reported_at(self) -> float:
        """When the last report was made, in monotonic seconds; 0 before the first."""
        report: int = _WORD.unpack_from(self._memory, _REPORT)[0]
        return report / _NANO

    def silence(self) -> float:
        """Return the seconds since the last report; 0 before the first."""
        report: int = _WORD.unpack_from(self._memory, _REPORT)[0]
        return (time.monotonic_ns() - report) / _NANO if report else 0.0

    # ---- who runs what -----------------------------------------------------------------------------------

    def start(self, worker: int, job_id: str) -> None:
        """The worker runs this job from now on."""
        place = _HEAD.size + worker * _WIDTH
        self._memory[place : place + _ID] = job_id.encode().ljust(_ID, b"\0")[:_ID]

    def end(self, worker: int) -> None:
        """The worker runs nothing."""
        place = _HEAD.size + worker * _WIDTH
        self._memory[place : place + _ID] = _EMPTY

    def running(self) -> list[str]:
        """Return the ids of the jobs that are running, or were when the child died."""
        places = range(_HEAD.size, _HEAD.size + self.workers * _WIDTH, _WIDTH)
        ids = (self._memory[place : place + _ID].rstrip(b"\0") for place in places)
        return [job_id.decode() for job_id in ids if job_id]
