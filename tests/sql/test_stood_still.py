"""A server that stands still within a transaction, or is cut off there, is in nobody's way for long."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from firelock.testing import Handles, Scene
from firelock_sql.mysql import opening as mysql_opening
from firelock_sql.postgresql import opening as postgresql_opening

TOUCH = "UPDATE firelock_sessions SET busy = busy + 1"


@pytest.fixture
def open_postgresql(postgresql):
    """How storages are opened that are not told of work."""
    return lambda: postgresql_opening.open_url(postgresql.url("listen=off"))


@pytest.fixture
def open_mysql(mariadb):
    """As above."""
    return lambda: mysql_opening.open_url(mariadb.url())


def assert_taken_over(open_storage):
    """While one process stands still with the row of its session locked, another one ends the session."""
    handles = Handles(open_storage)
    handles.first.clear()
    scene = Scene(handles)
    holder = scene.begin()
    job = scene.run(holder)
    stands_still, goes_on = threading.Event(), threading.Event()
    said = []

    def renew(tx):
        tx.cursor.execute(TOUCH)
        stands_still.set()
        goes_on.wait(60)

    def stand_still():
        with closing(open_storage()) as storage:
            try:
                storage._database.write(renew)  # noqa: SLF001 - what it does between two statements
            except Exception as error:  # noqa: BLE001 - looked at below
                said.append(type(error).__name__)

    standing = threading.Thread(target=stand_still)
    standing.start()
    try:
        assert stands_still.wait(30)
        taken = scene.storage.end_session(holder.session, None, reason="lost")
    finally:
        goes_on.set()
        standing.join()
    handles.close()

    assert [job.id] == list(taken.crashed)
    assert ["StorageUnavailable"] == said


def test_jobs_are_taken_from_who_stands_still_on_postgresql(open_postgresql):
    """The server ends a transaction in which nothing is asked for ten seconds."""
    assert_taken_over(open_postgresql)


def test_jobs_are_taken_from_who_stands_still_on_mysql(open_mysql):
    """As above, on MariaDB."""
    assert_taken_over(open_mysql)
