"""A client that enqueues all the time, through whatever befalls the storage, and what it tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import attrs

from firelock import Firelock, StorageUnavailable
from tests.faults.checker import Report
from tests.faults.ledger import Tail
from tests.faults.scenarios.base import Stage, forgetting
from tests.faults.servers import eventually

__all__ = [
    "BATCH",
    "Feed",
    "await_progress",
    "end",
    "feeding",
    "figures",
    "forgetting_all",
    "outage",
    "stub",
]

BATCH = 10


@attrs.define(eq=False)
class Feed:
    """A client that enqueues all the time, through whatever befalls the storage."""

    on: Stage
    fire: Firelock
    refusals: list[str] = attrs.field(factory=list)
    outages: list[float] = attrs.field(factory=list)  # seconds between two answers, refusals between them
    _over: threading.Event = attrs.field(factory=threading.Event)
    _ended: threading.Event = attrs.field(factory=threading.Event)
    _failed: list[BaseException] = attrs.field(factory=list)

    def run(self) -> None:
        """Jobs are stored until it is over; each that was acknowledged counts, no other."""
        task = self.fire.task(name="work", remote=True)(stub)
        answered, is_refused = time.monotonic(), False
        try:
            while not self._over.wait(0.01):
                try:
                    jobs = task.enqueue_many([(0.005,)] * BATCH)
                except StorageUnavailable as error:
                    self.refusals.append(str(error))
                    is_refused = True
                    continue
                if is_refused:
                    self.outages.append(time.monotonic() - answered)
                answered, is_refused = time.monotonic(), False
                self.on.acknowledged.update(job.id for job in jobs)
        except BaseException as error:  # noqa: BLE001 - raised by `feeding`
            self._failed.append(error)
        finally:
            self._ended.set()

    def stop(self) -> None:
        """The last call has been answered: nothing is enqueued any more."""
        self._over.set()
        self._ended.wait()

    def end(self) -> None:
        """What went wrong is raised."""
        if self._failed:
            raise self._failed[0]


def stub(seconds: float) -> int:  # type: ignore[empty-body]
    """Stand for the task `work`."""


@contextmanager
def feeding(on: Stage, storage: str | None = None) -> Iterator[Feed]:
    """Yield a client of its own that enqueues meanwhile."""
    with Firelock(storage or on.place.storage) as fire:
        feed = Feed(on, fire)
        thread = threading.Thread(target=feed.run, name="feed")
        thread.start()
        try:
            yield feed
        finally:
            feed.stop()
            thread.join()
        feed.end()


def forgetting_all(on: Stage) -> AbstractContextManager[None]:
    """What the servers run meanwhile may be run again: the storage forgets."""
    return forgetting(on.ledger, [pid for server in on.servers for pid in (server.pid, *server.family())])


def await_progress(on: Stage, since: float, within: float = 30) -> float:
    """Return how long after an instant a job started that was enqueued behind it."""
    fresh: list[str] = []
    tail = Tail(on.place.ledger_folder)

    def has_started() -> bool:
        if not fresh:
            try:
                fresh.extend(on.enqueue(1, 0.0))
            except StorageUnavailable:
                return False
        return tail.has_started(fresh[0])

    eventually(has_started, within, "a new job starts")
    return time.monotonic() - since


def end(on: Stage, within: float = 60) -> Report:
    """Return the report once every job has ended."""
    eventually(lambda: on.unfinished() == 0, within, "all jobs have ended")
    return on.report()


def figures(report: Report) -> str:
    """Return what matters of a report in one line."""
    return (
        f"jobs {report.jobs}, lost {report.lost}, stuck {report.stuck}, "
        f"repeats {report.repeats}, unexplained {report.unexplained}"
    )


def outage(feed: Feed) -> str:
    """Return for how long the client had no answer."""
    return f"the longest outage for a client {max(feed.outages, default=0):.1f} s"
