"""Methods derived from others, on a storage with only the required ones, and with concurrent writes."""

from __future__ import annotations

import threading
from collections import deque

import pytest

from firelock.errors import StorageError, StorageUnavailable
from firelock.model import lifecycle
from firelock.model.job import ErrorInfo, LogLine, NewJob
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.storage import (
    DURATION_BUCKETS,
    ClaimRequest,
    DerivedStorage,
    FoundJobs,
    NewSession,
    Rollup,
    derived,
)
from firelock.storage.memory import MemoryStorage

HOLDER = ClaimHolder("session-a", "host:a")


class SmallStorage(MemoryStorage):
    """Tables and the derived methods; functions in `rivals` run before its next writes."""

    features = frozenset()
    wait, interrupt = DerivedStorage.wait, DerivedStorage.interrupt
    exchange = DerivedStorage.exchange
    oldest_session = DerivedStorage.oldest_session

    def __init__(self):
        super().__init__()
        self.rivals = deque()

    def put_record(self, *args, **kwargs):
        if self.rivals:
            self.rivals.popleft()()
        return super().put_record(*args, **kwargs)


@pytest.fixture
def storage():
    """Yield a small storage with a session."""
    storage = SmallStorage()
    storage.begin_session(NewSession(HOLDER.session, "server-a", HOLDER.server, "host", 7, 0, 1e9))
    yield storage
    storage.close()


def insert(storage, task="tasks.run"):
    """Store a job and return its id."""
    job = NewJob(storage.new_ids(1)[0], task, "[]", "json", "default", 0, State.ENQUEUED, 0)
    storage.insert([job])
    return job.id


def fail(storage, fingerprint, *tasks):
    """Fail a job of each task with this fingerprint, one after another; return their ids."""
    failed = []
    for task in tasks:
        insert(storage, task)
        (job,) = storage.exchange([], ClaimRequest(None, 1, HOLDER.session, storage.clock())).claim.jobs
        error = ErrorInfo("builtins.ValueError", f"no {task}", fingerprint) if fingerprint else None
        end = lifecycle.failed(job, HOLDER, at=0, started_at=0, reason="failed", error=error, expires_at=None)
        storage.exchange([end], ClaimRequest(None, 0, HOLDER.session, 0))
        failed.append(job.id)
    return failed


# ---- sessions --------------------------------------------------------------------------------------------


def test_oldest_session_is_found_in_the_list():
    """The result is the first live session, or None."""
    storage = SmallStorage()
    for started_at, name in enumerate("bac"):
        storage.begin_session(NewSession(name, name, name, name, 7, started_at, 30.0))
    found = []

    for name in ("b", "a", "c"):
        storage.end_session(name, (), reason="stopped")
        found.append(storage.oldest_session())

    assert ["a", "c", None] == [record and record.session.id for record in found]


# ---- compare-and-set -------------------------------------------------------------------------------------


def test_conflicting_change_is_repeated(storage):
    """The change is repeated on the result of the concurrent write, so that neither change is lost."""
    job, line = insert(storage), LogLine(0, 5, "info", "hello")
    storage.rivals.append(lambda: storage.append_logs({job: [line]}, {}))

    storage.append_logs({job: [line]}, {})

    assert [1, 2] == [line.number for line in storage.read_log(job)]


def test_change_that_always_conflicts_raises_an_error(storage):
    """The storage is reported as unavailable, so the caller can try again later."""
    job, line = insert(storage), LogLine(0, 5, "info", "hello")

    def rival():
        MemoryStorage.put_record(storage, "log", job, "[]")
        storage.rivals.append(rival)

    storage.rivals.append(rival)

    with pytest.raises(StorageUnavailable, match="times in a row"):
        storage.append_logs({job: [line]}, {})


def test_lock_acquired_by_another_caller_is_refused(storage):
    """Both callers have read that the lock is free, but only one of them gets it."""
    storage.rivals.append(lambda: storage.acquire_lock("report", "rival", 60))

    assert storage.acquire_lock("report", "me", 60) is None
    assert storage.renew_lock("report", "rival", 1, 60)


# ---- waiting ---------------------------------------------------------------------------------------------


def test_wait_without_notifications_lasts_until_its_timeout(storage):
    """The storage has no notifications, so polling finds the job."""
    insert(storage)

    assert not storage.wait(None, 0)


def test_interrupt_ends_every_wait(storage):
    """Current waits return immediately; a later wait is not affected."""
    returned = []
    waits = [threading.Thread(target=lambda: returned.append(storage.wait(None, 60))) for _ in range(3)]
    for wait in waits:
        wait.start()

    while any(wait.is_alive() for wait in waits):  # the next interrupt ends a wait that starts later
        storage.interrupt()
        waits[0].join(0.001)

    assert [False] * 3 == returned
    assert not storage.wait(None, 0)


# ---- methods derived from the tables ---------------------------------------------------------------------


def test_failure_groups_include_all_pages(storage, monkeypatch):
    """Every failure counts, up to a limit that bounds the duration."""
    monkeypatch.setattr(derived, "_PAGE", 2)
    fail(storage, "f1", *"abcde")

    assert [5] == [group.count for group in storage.failure_groups(10)]
    monkeypatch.setattr(derived, "GROUPED_LIMIT", 3)
    assert [4] == [group.count for group in storage.failure_groups(10)]


# ---- endless iteration -----------------------------------------------------------------------------------


class Inclusive(SmallStorage):
    """A storage whose lists start with the key that was already returned, an easy mistake."""

    def list_records(self, kind, *, after="", limit=100):
        found = super().list_records(kind, limit=1_000)
        return [record for record in found if record.key >= after][:limit]


class Circling(SmallStorage):
    """A storage whose pages never end."""

    def find(self, where, *, limit, cursor=None, oldest_first=False):
        return FoundJobs([], "again")


def test_list_that_repeats_its_last_key_raises_an_error():
    """Methods that read lists of records do not loop forever.

    The error contains the name of the faulty list.
    """
    storage = Inclusive()
    histogram = (0,) * (len(DURATION_BUCKETS) + 1)
    for name in map(str, range(500)):  # a full page, because no request follows a shorter one
        storage.record_metrics([Rollup(60_000_000, name, "q", "succeeded", 1, 1, histogram)])

    with pytest.raises(StorageError, match="must return only keys above `after`, in order"):
        storage.timeline(0, 120_000_000)


def test_repeated_cursor_raises_an_error():
    """If `find` returns the cursor that it was given, an error is raised instead of an endless loop."""
    with pytest.raises(StorageError, match="find must return a cursor that continues"):
        Circling().failure_groups(5)
