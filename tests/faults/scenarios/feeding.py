"""A client that enqueues all the time, through whatever befalls the storage, and what it tells."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import attrs

from firelock import Firelock, StorageUnavailable
from tests.faults.scenarios.base import Stage

__all__ = ["BATCH", "Feed", "feeding", "stub"]

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

    def run(self):
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

    def stop(self):
        """The last call has been answered: nothing is enqueued any more."""
        self._over.set()
        self._ended.wait()

    @property
    def outage(self):
        """For how long the client had no answer."""
        return f"the longest outage for a client {max(self.outages, default=0):.1f} s"

    def end(self):
        """What went wrong is raised."""
        if self._failed:
            raise self._failed[0]


def stub(seconds: float) -> int:
    """Stand for the task `work`."""


@contextmanager
def feeding(on, storage=None):
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
