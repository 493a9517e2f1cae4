"""Shared memory through which a worker process and its supervisor exchange state without messages.

The supervisor writes the time until which the worker process may start jobs, and the number of its session.
The worker process writes the time of its last report, and the job that each of its workers runs. The
supervisor also reads this memory after the worker process has died, so nothing in it may depend on an orderly
exit.

The memory does not belong to a file, so a full or read-only disk cannot affect it. A worker process is a
separate program, so it gets the memory as a descriptor, and sets the size when it knows its number of
workers.

The layout is little-endian: right to run (elapsed ns) · number of the session · last report (monotonic ns) ·
CPU time (ns) · memory (bytes) · last iteration of the dispatcher (monotonic ns) · time since which the
dispatcher's calls to the storage fail (monotonic ns) · fields of `WorkerCounts` · 40 bytes per worker, with
the id of its job or zeros. Each number is written by one assignment, which copies it as a whole. `pack_into`
would write zeros first, which another process could read.
"""

from __future__ import annotations

import mmap
import os
import secrets
import struct
import time
from collections.abc import Callable

import attrs

from firelock.errors import ConfigurationError
from firelock.model.clock import elapsed_seconds

_WORD = struct.Struct("<q")
_REPORT = struct.Struct("<qqq")
_RIGHT, _SESSION, _REPORTED, _TURNED, _FAILING = 0, 8, 16, 40, 48
_COUNTED = struct.Struct("<qqqqqqq")
_COUNTS, _HEAD = 56, 112
_WIDTH = 40
_ID = 36
_EMPTY = bytes(_ID)
_NANO = 1_000_000_000


def share_memory() -> int:
    """Create memory without a size for a worker process; return its descriptor, which the caller must close.

    Raises:
        ConfigurationError: If the system does not provide shared memory.
    """
    try:
        if hasattr(os, "memfd_create"):
            return os.memfd_create("firelock-worker-process", os.MFD_CLOEXEC)
        return _open_shared_memory()
    except (OSError, ImportError) as error:
        raise ConfigurationError(
            f"The system does not provide shared memory ({error}), which a server needs for its worker "
            "processes."
        ) from error


def _open_shared_memory() -> int:
    """Return POSIX shared memory. Its random name is removed immediately, so no other process can open it."""
    # multiprocessing.shared_memory uses this module but does not expose the descriptor. Linux needs neither.
    import _posixshmem  # type: ignore[import-not-found]  # noqa: PLC0415

    name = f"/firelock-{secrets.token_hex(8)}"  # macOS allows 31 characters
    descriptor: int = _posixshmem.shm_open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    _posixshmem.shm_unlink(name)
    return descriptor


@attrs.frozen
class WorkerCounts:
    """The numbers of workers in a process. A worker is stuck if its job continues after its timeout."""

    threads: int = 0
    coroutines: int = 0  # 0 if no task of the app is asynchronous
    busy_threads: int = 0
    busy_coroutines: int = 0
    stuck_threads: int = 0
    stuck_coroutines: int = 0
    parked: int = 0  # number of ended jobs whose rows other transactions have locked

    @property
    def busy(self) -> int:
        """The number of workers that run a job."""
        return self.busy_threads + self.busy_coroutines


NO_WORKERS = WorkerCounts()


@attrs.frozen
class Report:
    """The last report of a worker process about itself."""

    at: float  # monotonic time of the report; 0 before the first report
    workers: WorkerCounts
    cpu_seconds: float  # CPU time since the process started
    rss_bytes: int  # memory of the process; 0 if the system does not report it


@attrs.define(eq=False, slots=False)
class SharedMemory:
    """The shared memory of one worker process.

    The right to run is measured by `elapsed_seconds`, because the storage's clock continues while the machine
    is suspended. All other times use CLOCK_MONOTONIC, so a worker process does not seem silent after a
    suspension. All processes of a host share both clocks.
    """

    _memory: mmap.mmap
    workers: int
    _elapsed: Callable[[], float] = elapsed_seconds
    _adopted: int = 0  # number of the session for which this process starts jobs

    @classmethod
    def create(cls, workers: int, elapsed: Callable[[], float] = elapsed_seconds) -> SharedMemory:
        """Return new memory, all zeros, for a server whose workers run in its own process.

        Args:
            workers: the number of threads and coroutines.
            elapsed: the clock that measures the right to run, in seconds.

        Raises:
            ConfigurationError: If there is not enough memory.
        """
        return cls.attach(-1, workers, elapsed)

    @classmethod
    def allocate(cls, descriptor: int, workers: int) -> SharedMemory:
        """Allocate memory, all zeros, for a descriptor without a size; the worker process calls this.

        The memory is reserved immediately, so that no later write can fail for lack of memory.

        Raises:
            ConfigurationError: If there is not enough memory.
        """
        try:
            os.ftruncate(descriptor, _size(workers))
            if hasattr(os, "posix_fallocate"):  # not on macOS, which always reserves shared memory
                os.posix_fallocate(descriptor, 0, _size(workers))
        except OSError as error:
            raise _no_memory(workers, error) from error
        return cls.attach(descriptor, workers)

    @classmethod
    def attach(
        cls, descriptor: int, workers: int, elapsed: Callable[[], float] = elapsed_seconds
    ) -> SharedMemory:
        """Return the memory that a worker process has allocated; the descriptor may then be closed.

        Raises:
            ConfigurationError: If there is not enough memory.
        """
        try:
            return cls(mmap.mmap(descriptor, _size(workers)), workers, elapsed)
        except OSError as error:
            raise _no_memory(workers, error) from error

    def close(self) -> None:
        """Unmap the memory."""
        self._memory.close()

    def _read(self, place: int) -> int:
        word: int = _WORD.unpack_from(self._memory, place)[0]
        return word

    def _write(self, place: int, word: float) -> None:
        self._memory[place : place + _WORD.size] = _WORD.pack(int(word))

    # ---- the right to run --------------------------------------------------------------------------------

    def grant(self, until: float) -> None:
        """Allow the worker process to start jobs until this time, in elapsed seconds; 0 revokes the right."""
        self._write(_RIGHT, until * _NANO)

    def begin_session(self) -> None:
        """Record a new session, which the worker process must adopt before it starts jobs."""
        self._write(_SESSION, self._read(_SESSION) + 1)

    def adopt_session(self) -> None:
        """Adopt the new session; call this when jobs of an earlier session can no longer start."""
        self._adopted = self._read(_SESSION)

    def may_start(self) -> bool:
        """Return whether a job may start now."""
        return self.has_right() and self._read(_SESSION) == self._adopted

    def has_right(self) -> bool:
        """Return whether the right to run is valid, even if the session is not adopted; for monitoring."""
        return self._elapsed() * _NANO < self._read(_RIGHT)

    # ---- reports -----------------------------------------------------------------------------------------

    def report(self, workers: WorkerCounts, *, cpu_seconds: float = 0.0, rss_bytes: int = 0) -> None:
        """Report that the worker process is alive, what its workers do, and its CPU time and memory."""
        self._memory[_COUNTS:_HEAD] = _COUNTED.pack(*attrs.astuple(workers))
        self._memory[_REPORTED:_TURNED] = _REPORT.pack(
            time.monotonic_ns(), int(cpu_seconds * _NANO), rss_bytes
        )

    def last_report(self) -> Report:
        """Return the last report; all zeros before the first report."""
        at, cpu, rss = _REPORT.unpack_from(self._memory, _REPORTED)
        workers = WorkerCounts(*_COUNTED.unpack_from(self._memory, _COUNTS))
        return Report(at / _NANO, workers, cpu / _NANO, rss)

    def silence(self) -> float:
        """Return the number of seconds since the last report; 0 before the first report."""
        at = self.last_report().at
        return time.monotonic() - at if at else 0.0

    def turn(self) -> None:
        """Record that the dispatcher begins an iteration."""
        self._memory[_TURNED:_FAILING] = _WORD.pack(time.monotonic_ns())

    def last_turn(self) -> float:
        """Return the monotonic time at which the dispatcher last began an iteration; 0 before the first."""
        return self._read(_TURNED) / _NANO

    def note_failing(self, since: float) -> None:
        """Store the monotonic time since which the dispatcher cannot claim and settle; 0 if it can."""
        self._write(_FAILING, since * _NANO)

    def failing_since(self) -> float:
        """Return the monotonic time since which the dispatcher cannot claim and settle; 0 if it can."""
        return self._read(_FAILING) / _NANO

    # ---- running jobs ------------------------------------------------------------------------------------

    def start(self, worker: int, job_id: str) -> None:
        """Record that the worker runs this job."""
        place = _HEAD + worker * _WIDTH
        self._memory[place : place + _ID] = job_id.encode().ljust(_ID, b"\0")[:_ID]

    def end(self, worker: int) -> None:
        """Record that the worker does not run a job."""
        place = _HEAD + worker * _WIDTH
        self._memory[place : place + _ID] = _EMPTY

    def running(self) -> list[str]:
        """Return the ids of the jobs that are running, or were running when the worker process died."""
        places = range(_HEAD, _size(self.workers), _WIDTH)
        ids = (self._memory[place : place + _ID].rstrip(b"\0") for place in places)
        return [job_id.decode() for job_id in ids if job_id]


def _size(workers: int) -> int:
    return _HEAD + workers * _WIDTH


def _no_memory(workers: int, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"Not enough shared memory for {workers:,} workers ({_size(workers):,} bytes): "
        f"{error.strerror or error}. Add memory to this machine or container, or use fewer workers."
    )
