"""A session that nobody could renew is not taken for dead."""

from __future__ import annotations

from contextlib import closing

import pytest

from firelock.storage import NewSession
from firelock_sql.sessions import end_expired
from firelock_sql.sqlite.database import SqliteDatabase
from firelock_sql.sqlite.storage import SqliteStorage
from firelock_sql.url import parse_sqlite_url

SECOND = 1_000_000


@pytest.fixture
def database(tmp_path):
    """A file whose clock has passed the end of a session of ten seconds."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    with closing(SqliteStorage(url)) as storage:
        storage.begin_session(NewSession("session", "server", "host:7", "host", 7, 1, 10.0))
    database = SqliteDatabase(parse_sqlite_url(url))
    database.clock_offset += 11 * SECOND
    yield database
    database.close()


def test_who_had_to_wait_for_the_file_reaps_nobody(database):
    """While one writer held the file, those who wanted to renew had to wait as well: they come first."""
    waited = database.write(lambda tx: end_expired(tx, "session", tx.now - SECOND))
    at_once = database.write(lambda tx: end_expired(tx, "session", tx.now))

    assert waited is None
    assert at_once is not None
