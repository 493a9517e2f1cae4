"""What a worker process and its supervisor tell each other without a message: a few bytes of shared memory.

The supervisor writes until when the worker process may start jobs, and for the how-manieth of its sessions;
the worker process writes when it last reported and which job each of its workers runs. It is read after the
worker process has died, so nothing in it needs an orderly end.

The memory belongs to no file: a full or read-only disk cannot take it away. A worker process is another
program, so it gets the memory as a descriptor, and gives it its size once it knows how many workers it has.

Layout, little-endian: right to run (elapsed ns) · number of the session · last report (monotonic ns) · time
on processors (ns) · memory (bytes) · last turn of the dispatcher (monotonic ns) · since when its calls of the
storage fail (monotonic ns) · the fields of `WorkerCounts`, then 40 bytes a worker: the id of its job, or
zeros. Numbers are written by one assignment, which copies them whole: `pack_into` writes zeros first, which
another process would read.
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
    """Return the descriptor of new memory without a size, which a worker process may be given; close it.

    Raises:
        ConfigurationError: the system has no shared memory for it.
    """
    try:
        if hasattr(os, "memfd_create"):
            return os.memfd_create("firelock-worker-process", os.MFD_CLOEXEC)
        return _open_shared_memory()
    except (OSError, ImportError) as error:
        raise ConfigurationError(
            f"The system gives no shared memory ({error}), without which a server has no worker process."
        ) from error


def _open_shared_memory() -> int:
    """Return memory that POSIX gives by a name, which nobody else has had the time to learn."""
    # What multiprocessing.shared_memory is made of, which gives no descriptor itself; Linux needs it not.
    import _posixshmem  # type: ignore[import-not-found]  # noqa: PLC0415

    name = f"/firelock-{secrets.token_hex(8)}"  # macOS takes 31 characters
    descriptor: int = _posixshmem.shm_open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    _posixshmem.shm_unlink(name)
    return descriptor


@attrs.frozen
class WorkerCounts:
    """The workers of a worker process by kind. A worker is stuck if its job goes on after its timeout."""

    threads: int = 0
    coroutines: int = 0  # 0 if no task of the app is asynchronous
    busy_threads: int = 0
    busy_coroutines: int = 0
    stuck_threads: int = 0
    stuck_coroutines: int = 0
    parked: int = 0  # ends that wait for rows which other transactions have locked

    @property
    def busy(self) -> int:
        """The number of workers that run a job."""
        return self.busy_threads + self.busy_coroutines


NO_WORKERS = WorkerCounts()


@attrs.frozen
class Report:
    """What a worker process last said of itself."""

    at: float  # in monotonic seconds; 0 before the first
    workers: WorkerCounts
    cpu_seconds: float  # time on processors since its process began
    rss_bytes: int  # its memory; 0 where the system does not tell it


@attrs.define(eq=False, slots=False)
class SharedMemory:
    """Shared memory of one worker process.

    The right to run ends by `elapsed_seconds`, since the storage's clock goes on while the machine is
    suspended. All other times are of CLOCK_MONOTONIC: a suspension does not make a worker process silent. A
    host's processes share both clocks.
    """

    _memory: mmap.mmap
    workers: int
    _elapsed: Callable[[], float] = elapsed_seconds
    _adopted: int = 0  # the session that this process starts jobs for

    @classmethod
    def create(cls, workers: int, elapsed: Callable[[], float] = elapsed_seconds) -> SharedMemory:
        """Return new memory, all zeros, for a server that has its workers in its own process.

        Args:
            workers: threads and coroutines.
            elapsed: the clock of the right to run, in seconds.

        Raises:
            ConfigurationError: there is no memory for it.
        """
        return cls.attach(-1, workers, elapsed)

    @classmethod
    def allocate(cls, descriptor: int, workers: int) -> SharedMemory:
        """Return new memory, all zeros, behind a descriptor that has no size yet: the worker process's side.

        The memory is there from now on, not only promised: no later write can be the first to miss it.

        Raises:
            ConfigurationError: there is no memory for it.
        """
        try:
            os.ftruncate(descriptor, _size(workers))
            if hasattr(os, "posix_fallocate"):  # macOS has none, and no shared memory that is only promised
                os.posix_fallocate(descriptor, 0, _size(workers))
        except OSError as error:
            raise _no_memory(workers, error) from error
        return cls.attach(descriptor, workers)

    @classmethod
    def attach(
        cls, descriptor: int, workers: int, elapsed: Callable[[], float] = elapsed_seconds
    ) -> SharedMemory:
        """Return the memory that a worker process has allocated there; the descriptor may be closed.

        Raises:
            ConfigurationError: there is no memory for it.
        """
        try:
            return cls(mmap.mmap(descriptor, _size(workers)), workers, elapsed)
        except OSError as error:
            raise _no_memory(workers, error) from error

    def close(self) -> None:
        """The memory is unmapped."""
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
        """Note that the worker process has a new session: it starts no job before it has adopted it."""
        self._write(_SESSION, self._read(_SESSION) + 1)

    def adopt_session(self) -> None:
        """Nothing that was claimed for a former session is left to be started here."""
        self._adopted = self._read(_SESSION)

    def may_start(self) -> bool:
        """Tell whether a job may be started now."""
        return self.has_right() and self._read(_SESSION) == self._adopted

    def has_right(self) -> bool:
        """Tell whether the worker process's right to run lasts, adopted or not: for who looks on."""
        return self._elapsed() * _NANO < self._read(_RIGHT)

    # ---- being alive -------------------------------------------------------------------------------------

    def report(self, workers: WorkerCounts, *, cpu_seconds: float = 0.0, rss_bytes: int = 0) -> None:
        """The worker process lives, its workers do this, and its process takes so much."""
        self._memory[_COUNTS:_HEAD] = _COUNTED.pack(*attrs.astuple(workers))
        self._memory[_REPORTED:_TURNED] = _REPORT.pack(
            time.monotonic_ns(), int(cpu_seconds * _NANO), rss_bytes
        )

    def last_report(self) -> Report:
        """Return the last report; all zeros before the first."""
        at, cpu, rss = _REPORT.unpack_from(self._memory, _REPORTED)
        workers = WorkerCounts(*_COUNTED.unpack_from(self._memory, _COUNTS))
        return Report(at / _NANO, workers, cpu / _NANO, rss)

    def silence(self) -> float:
        """Return the seconds since the last report; 0 before the first."""
        at = self.last_report().at
        return time.monotonic() - at if at else 0.0

    def turn(self) -> None:
        """The dispatcher begins a turn."""
        self._memory[_TURNED:_FAILING] = _WORD.pack(time.monotonic_ns())

    def last_turn(self) -> float:
        """Return when the dispatcher last began a turn, in monotonic seconds; 0 before the first."""
        return self._read(_TURNED) / _NANO

    def note_failing(self, since: float) -> None:
        """Store since when the dispatcher cannot claim and settle, in monotonic seconds; 0 if it can."""
        self._write(_FAILING, since * _NANO)

    def failing_since(self) -> float:
        """Return since when the dispatcher cannot claim and settle, in monotonic seconds; 0 if it can."""
        return self._read(_FAILING) / _NANO

    # ---- who runs what -----------------------------------------------------------------------------------

    def start(self, worker: int, job_id: str) -> None:
        """The worker runs this job from now on."""
        place = _HEAD + worker * _WIDTH
        self._memory[place : place + _ID] = job_id.encode().ljust(_ID, b"\0")[:_ID]

    def end(self, worker: int) -> None:
        """The worker runs nothing."""
        place = _HEAD + worker * _WIDTH
        self._memory[place : place + _ID] = _EMPTY

    def running(self) -> list[str]:
        """Return the ids of the jobs that are running, or were when the worker process died."""
        places = range(_HEAD, _size(self.workers), _WIDTH)
        ids = (self._memory[place : place + _ID].rstrip(b"\0") for place in places)
        return [job_id.decode() for job_id in ids if job_id]


def _size(workers: int) -> int:
    return _HEAD + workers * _WIDTH


def _no_memory(workers: int, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"No shared memory for {workers:,} workers, {_size(workers):,} bytes: {error.strerror or error}. "
        "Give this machine or container more memory, or the server fewer workers."
    )
