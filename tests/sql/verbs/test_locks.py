"""Only the rows of locks used in the last day are kept, and one row that keeps the tokens increasing."""

from __future__ import annotations

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.scenes import scene_at

DAY = 86_400.0


def assert_rows_do_not_pile_up(url, engine_url):
    """Use a lock on each of twenty days: no rows are left, and a repeated name gets a larger token."""
    with scene_at(url) as scene:
        storage, tokens = scene.storage, []
        for day in range(20):
            for name in (f"day:{day}", "report"):
                tokens.append(storage.acquire_lock(name, "ada", 60.0))
                storage.release_lock(name, "ada", tokens[-1])
            scene.advance(2 * DAY)
            storage.prune(100)
        with create_engine(engine_url, poolclass=NullPool).connect() as connection:
            rows = connection.execute(text("select count(*) from firelock_locks")).scalar()

        assert 1 == rows
        assert sorted(set(tokens[1::2])) == tokens[1::2]
        assert storage.acquire_lock("day:0", "bob", 60.0) > tokens[-1]


def test_lock_rows_are_deleted_on_sqlite(tmp_path):
    """For example, a program may use a lock with a different name each night."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    assert_rows_do_not_pile_up(url, url)


def test_lock_rows_are_deleted_on_postgresql(postgresql):
    """For example, a program may use a lock with a different name each night."""
    assert_rows_do_not_pile_up(postgresql.url("listen=off"), postgresql.engine_url())


def test_lock_rows_are_deleted_on_mariadb(mariadb):
    """For example, a program may use a lock with a different name each night."""
    assert_rows_do_not_pile_up(mariadb.url(), mariadb.engine_url())
