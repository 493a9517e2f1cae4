"""Rows of locks: as many as there are locks of the last day, and one that keeps the tokens rising."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from tests.scenes import scene_at

COUNT = "SELECT count(*) FROM firelock_locks"
DAY = 86_400.0


def many_days(url, count):
    """Locks of twenty days have ended; return the rows, the tokens of one name, and what an old name gets."""
    with scene_at(url) as scene:
        storage, tokens = scene.storage, []
        for day in range(20):
            for name in (f"day:{day}", "report"):
                tokens.append(storage.acquire_lock(name, "ada", 60.0))
                storage.release_lock(name, "ada", tokens[-1])
            scene.advance(2 * DAY)
            storage.prune(100)
        return count(), tokens[1::2], storage.acquire_lock("day:0", "bob", 60.0)


def test_rows_of_locks_do_not_pile_up_in_sqlite(tmp_path):
    """A lock for each day leaves none behind, and a name that comes back goes on with a larger token."""
    path = tmp_path / "jobs.db"

    def count():
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute(COUNT).fetchone()[0]

    rows, tokens, again = many_days(f"sqlite:///{path}", count)

    assert 1 == rows
    assert sorted(set(tokens)) == tokens
    assert again > tokens[-1]


def test_rows_of_locks_do_not_pile_up_in_postgresql(postgresql):
    """So here too."""

    def count():
        with postgresql.server.connect(postgresql.name) as connection:
            return connection.execute(COUNT).fetchone()[0]

    rows, tokens, again = many_days(postgresql.url("listen=off"), count)

    assert 1 == rows
    assert sorted(set(tokens)) == tokens
    assert again > tokens[-1]


def test_rows_of_locks_do_not_pile_up_in_mariadb(mariadb):
    """And here."""

    def count():
        with mariadb.server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"USE {mariadb.name}")
            cursor.execute(COUNT)
            return cursor.fetchone()[0]

    rows, tokens, again = many_days(mariadb.url(), count)

    assert 1 == rows
    assert sorted(set(tokens)) == tokens
    assert again > tokens[-1]
