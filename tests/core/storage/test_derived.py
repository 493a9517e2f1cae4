"""Verbs derived from others, on a storage that has only what it must have, and under rivals."""

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
    """Tables, and whatever else the contract derives from them; rivals come before its next writes."""

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
    """A small storage with a session."""
    storage = SmallStorage()
    storage.begin_session(NewSession(HOLDER.session, "server-a", HOLDER.server, "host", 7, 0, 1e9))
    yield storage
    storage.close()


def insert(storage, task="tasks.run"):
    """The id of a job that is stored now."""
    job = NewJob(storage.new_ids(1)[0], task, "[]", "json", "default", 0, State.ENQUEUED, 0)
    storage.insert([job])
    return job.id


def fail(storage, fingerprint, *tasks):
    """A job of each task failed in this way, one after another; return their ids."""
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
    """The first one that lives; none if none does."""
    storage = SmallStorage()
    for started_at, name in enumerate("bac"):
        storage.begin_session(NewSession(name, name, name, name, 7, started_at, 30.0))
    found = []

    for name in ("b", "a", "c"):
        storage.end_session(name, (), reason="stopped")
        found.append(storage.oldest_session())

    assert ["a", "c", None] == [record and record.session.id for record in found]


# ---- compare-and-set -------------------------------------------------------------------------------------


def test_a_change_that_was_overtaken_is_made_again(storage):
    """It is made of what the rival left, so that neither is lost."""
    job, line = insert(storage), LogLine(0, 5, "info", "hello")
    storage.rivals.append(lambda: storage.append_logs({job: [line]}, {}))

    storage.append_logs({job: [line]}, {})

    assert [1, 2] == [line.number for line in storage.read_log(job)]


def test_a_change_that_is_always_overtaken_gives_up(storage):
    """The storage is taken for unavailable: the caller tries again later."""
    job, line = insert(storage), LogLine(0, 5, "info", "hello")

    def rival():
        MemoryStorage.put_record(storage, "log", job, "[]")
        storage.rivals.append(rival)

    storage.rivals.append(rival)

    with pytest.raises(StorageUnavailable, match="times in a row"):
        storage.append_logs({job: [line]}, {})


def test_a_lock_that_a_rival_takes_meanwhile_is_not_had(storage):
    """Both saw it free; one of them has it."""
    storage.rivals.append(lambda: storage.acquire_lock("report", "rival", 60))

    assert storage.acquire_lock("report", "me", 60) is None
    assert storage.renew_lock("report", "rival", 1, 60)


# ---- waiting ---------------------------------------------------------------------------------------------


def test_a_storage_that_does_not_notify_lets_the_time_run_out(storage):
    """It knows of no work; the poll will find it."""
    insert(storage)

    assert not storage.wait(None, 0)


def test_an_interrupt_ends_every_wait(storage):
    """Those under way return at once; a later one waits anew."""
    returned = []
    waits = [threading.Thread(target=lambda: returned.append(storage.wait(None, 60))) for _ in range(3)]
    for wait in waits:
        wait.start()

    while any(wait.is_alive() for wait in waits):  # one that had not begun yet is met by the next
        storage.interrupt()
        waits[0].join(0.001)

    assert [False] * 3 == returned
    assert not storage.wait(None, 0)


# ---- what is derived from the tables ---------------------------------------------------------------------


def test_groups_reach_beyond_a_page(storage, monkeypatch):
    """Every failure counts, up to a limit that keeps the answer quick."""
    monkeypatch.setattr(derived, "_PAGE", 2)
    fail(storage, "f1", *"abcde")

    assert [5] == [group.count for group in storage.failure_groups(10)]
    monkeypatch.setattr(derived, "GROUPED_LIMIT", 3)
    assert [4] == [group.count for group in storage.failure_groups(10)]


# ---- walks that have no end ------------------------------------------------------------------------------


class Inclusive(SmallStorage):
    """A storage whose lists begin with what was asked for already: a natural slip."""

    def list_records(self, kind, *, after="", limit=100):
        found = super().list_records(kind, limit=1_000)
        return [record for record in found if record.key >= after][:limit]


class Circling(SmallStorage):
    """A storage whose pages never end."""

    def find(self, where, *, limit, cursor=None, oldest_first=False):
        return FoundJobs([], "again")


def test_a_list_that_begins_where_it_ended_is_told():
    """What is derived from lists of records does not go round for ever: it says which list is at fault."""
    storage = Inclusive()
    histogram = (0,) * (len(DURATION_BUCKETS) + 1)
    for name in map(str, range(500)):  # a full page: behind a shorter one nobody asks again
        storage.record_metrics([Rollup(60_000_000, name, "q", "succeeded", 1, 1, histogram)])

    with pytest.raises(StorageError, match="list_records has to leave `after` out"):
        storage.timeline(0, 120_000_000)


def test_pages_that_never_end_are_told():
    """A cursor that is answered with itself is a fault of `find`, not a reason to ask for ever."""
    with pytest.raises(StorageError, match="find has to go on"):
        Circling().failure_groups(5)
