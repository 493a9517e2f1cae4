"""Sessions that could not be renewed are not ended as dead, and ending one costs no more than necessary."""

from __future__ import annotations

import tracemalloc
from contextlib import closing

import pytest

from firelock import State
from firelock.storage import ClaimRequest, NewJob, NewSession
from firelock_sql.connections.url import parse_sqlite_url
from firelock_sql.sqlite.database import SqliteDatabase
from firelock_sql.sqlite.storage import SqliteStorage
from firelock_sql.verbs.sessions import mark_expired_dead

SECOND = 1_000_000


@pytest.fixture
def database(tmp_path):
    """A file whose clock has passed the end of a ten-second session."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    with closing(SqliteStorage(url)) as storage:
        storage.begin_session(NewSession("session", "server", "host:7", "host", 7, 1, 10.0))
    database = SqliteDatabase(parse_sqlite_url(url))
    database.clock_offset += 11 * SECOND
    yield database
    database.close()


def test_sweep_after_a_wait_for_the_file_ends_no_session(database):
    """While another writer had locked the file, renewals also had to wait, so they must be stored first."""
    waited = database.write(lambda tx: mark_expired_dead(tx, "session", tx.now - SECOND))
    at_once = database.write(lambda tx: mark_expired_dead(tx, "session", tx.now))

    assert waited is None
    assert at_once is not None


def test_end_of_a_session_does_not_read_arguments(tmp_path):
    """A supervisor ends the sessions of dead worker processes, which may have hundreds of jobs.

    It reads only ids and numbers.
    """
    arguments = "x" * 100_000
    new = [
        NewJob(f"job-{place}", "send", arguments, "json", "default", 0, State.ENQUEUED, 1)
        for place in range(200)
    ]
    with closing(SqliteStorage(f"sqlite:///{tmp_path}/jobs.db")) as storage:
        now = storage.clock()
        storage.begin_session(NewSession("session", "server", "host:7", "host", 7, now, 10.0))
        storage.insert(new)
        assert 200 == len(storage.claim(ClaimRequest(["default"], 200, "session", now)).jobs)

        tracemalloc.start()
        taken = storage.end_session("session", [], reason="killed")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert 200 == len(taken.returned)
    assert peak < 20 * len(arguments)
