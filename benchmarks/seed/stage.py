"""The storage of fictional jobs, whose clock can be moved, and three servers that claim them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs

from benchmarks.seed.year import DAY, HOUR, MINUTE
from firelock.model.clock import SECOND
from firelock.model.ids import new_id
from firelock.model.session import ClaimHolder
from firelock.storage import ClaimRequest, NewSession, Renewal
from firelock.testing.movable_clock import movable

if TYPE_CHECKING:
    from firelock.model.job import ClaimedJob, NewJob, Transition
    from firelock.storage import Applied, Storage

__all__ = ["QUEUES", "Disturbed", "Server", "Stage"]

QUEUES = ("critical", "default", "mail", "reports", "billing", "media", "imports", "webhooks")
_LIVE_TIMEOUT = 24 * 3600.0  # seconds for which the live servers appear to be alive
_STALE_TIMEOUT, _STALE_SINCE = 60.0, 9 * MINUTE
_TRIES = 200  # because a claim, a promotion or a release may return fewer jobs than exist
_VERSION = "0.1.0"
_AHEAD = 1_000  # maximum difference of the two clocks during a seed, in micros
_LATE = 200_000  # micros from a burst's time to its claim, unless storing it takes longer


class Disturbed(Exception):
    """Another process uses the storage, so its results are unexpected."""


@attrs.frozen
class Server:
    """A fictional server: its session and its description."""

    session: NewSession
    is_stale: bool
    busy: int
    rss_bytes: int
    cpu_percent: float

    @property
    def holder(self) -> ClaimHolder:
        """The holder of the server's claimed jobs."""
        return ClaimHolder(self.session.id, self.session.server)


class Stage:
    """A storage whose clock can be moved."""

    def __init__(self, storage: Storage, now: int | None) -> None:
        self.storage = storage
        self._clock = movable(storage)
        self._offset = self._clock.clock_offset
        self._real = storage.clock() - self._offset
        self._began = time.monotonic()
        self._there: int | None = None
        self.now = now if now is not None else self._real + self._offset
        self.servers = [
            _server("worker-1", 8_311, self.now - 3 * DAY, 20, busy=12, megabytes=214, cpu=38.5),
            _server("web-1", 1_204, self.now - 6 * HOUR, 8, busy=6, megabytes=161, cpu=9.0),
            _server(
                "worker-2", 8_297, self.now - 3 * DAY, 20, busy=12, megabytes=402, cpu=97.0, is_stale=True
            ),
        ]

    def travel(self, at: int) -> None:
        """Set the storage's clock to this time or slightly later, but never earlier.

        The clock continues to run. A second call with the same time does not set it back, so the times of
        successive calls to a slow storage increase.
        """
        if at == self._there:
            return
        self._there = at
        elapsed = int((time.monotonic() - self._began) * SECOND)
        self._clock.clock_offset = at + _AHEAD - self._real - elapsed

    def come_back(self) -> None:
        """Reset the storage's clock."""
        self._clock.clock_offset, self._there = self._offset, None

    # ---- servers -----------------------------------------------------------------------------------------

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Begin the sessions of the servers; if the block fails, end them, so that no jobs are held."""
        try:
            self._begin()
            yield
        except BaseException:
            self.come_back()
            for server in self.servers:
                self.storage.end_session(server.session.id, (), reason="the seed was cancelled")
            raise
        finally:
            self.come_back()

    def _begin(self) -> None:
        for server in self.servers:
            self.travel(self.now - _STALE_SINCE if server.is_stale else self.now)
            self.storage.begin_session(server.session)

    def renew(self) -> None:
        """Renew the sessions: two with the current time, and the stale one some minutes ago."""
        for server in self.servers:
            self.travel(self.now - _STALE_SINCE) if server.is_stale else self.come_back()
            renewal = Renewal(server.session.id, server.busy, "running", server.rss_bytes, server.cpu_percent)
            self.storage.renew((renewal,))
        self.come_back()

    # ---- verbs that are repeated until all jobs are done -------------------------------------------------

    def claim(self, count: int, server: Server, at: int) -> list[ClaimedJob]:
        """Claim all enqueued jobs, which must be this many, for the server."""
        taken: list[ClaimedJob] = []
        claimed_at = max(at + _LATE, self.storage.clock())
        for _ in range(_TRIES):
            if len(taken) >= count:
                break
            taken += self.storage.claim(
                ClaimRequest(QUEUES, count - len(taken), server.session.id, claimed_at)
            ).jobs
        if len(taken) != count:
            raise Disturbed(f"expected {count} jobs to claim, found {len(taken)}")
        return taken

    def promote(self, count: int, at: int) -> None:
        """Enqueue this number of due jobs at this time."""
        self.travel(at)
        self._repeat(count, lambda left: self.storage.promote(left).promoted, "to promote")

    def release(self, count: int, at: int) -> None:
        """Release this number of continuations at this time."""
        self.travel(at)
        self._repeat(count, self.storage.release, "to release")

    def _repeat(self, count: int, verb: Callable[[int], int], what: str) -> None:
        done = 0
        for _ in range(_TRIES):
            if done >= count:
                return
            done += verb(count - done)
        raise Disturbed(f"expected {count} jobs {what}, found {done}")

    def insert(self, jobs: Sequence[NewJob], at: int) -> None:
        """Store the jobs at this time."""
        self.travel(at)
        if jobs and not all(self.storage.insert(jobs).is_new):
            raise Disturbed("a job with the same id already exists")

    def apply(self, transitions: Sequence[Transition]) -> list[Applied]:
        """Apply the transitions."""
        results = self.storage.apply(transitions) if transitions else []
        if refused := [result for result in results if not result.is_applied]:
            raise Disturbed(f"{len(refused)} of {len(results)} changes were not applied: {refused[0]}")
        return results


def _server(
    host: str, pid: int, started_at: int, workers: int, *, busy: int, megabytes: int, cpu: float,
    is_stale: bool = False,
) -> Server:  # fmt: skip
    session = NewSession(
        new_id(), new_id(), f"{host}:{pid}", host, pid, started_at,
        _STALE_TIMEOUT if is_stale else _LIVE_TIMEOUT, workers, "*", _VERSION,
    )  # fmt: skip
    return Server(session, is_stale, busy, megabytes << 20, cpu)
