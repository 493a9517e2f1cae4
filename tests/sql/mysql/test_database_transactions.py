"""Conflicting transactions on MariaDB: callers do not notice them, and nothing is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pymysql
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool, QueuePool

from firelock import Firelock, State
from firelock.storage import Applied, Edge, JobFilter, On, StorageError, StorageUnavailable
from firelock.testing.conformance.scene import deletes
from firelock.testing.waiting import eventually
from tests.scenes import scene_at


@pytest.fixture
def scene(mariadb):
    """An empty storage."""
    with scene_at(mariadb.url()) as scene:
        yield scene


@pytest.fixture
def rival(mariadb, scene):
    """Another connection, whose transaction has changed many rows.

    In a deadlock the server rolls back the smaller transaction, not this one.
    """
    with mariadb.server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"USE {mariadb.name}")
        cursor.execute("CREATE TABLE IF NOT EXISTS weights (id INT PRIMARY KEY, value INT)")
        cursor.executemany("REPLACE INTO weights VALUES (%s, 0)", [(number,) for number in range(100)])
        cursor.execute("BEGIN")
        cursor.execute("UPDATE weights SET value = value + 1 WHERE id > 0")
        yield cursor
        connection.rollback()


@pytest.fixture
def engine(mariadb):
    """A caller's engine."""
    engine = create_engine(mariadb.engine_url(), poolclass=NullPool)
    yield engine
    engine.dispose()


LOCK = "SELECT 1 FROM firelock_jobs WHERE id = %s FOR UPDATE"


def deadlocks(server):
    """Return the number of deadlocks that the server has detected."""
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")
        return int(cursor.fetchone()[1])


def wait_for_a_waiter(server):
    """Wait until a transaction waits for a row lock.

    `information_schema.innodb_trx` does not work here: InnoDB refreshes it only if nothing has read it for
    100 ms, so a program that polls more often gets the first result forever. The counter is always current.
    """
    with server.connect() as connection, connection.cursor() as cursor:

        def is_waiting():
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")
            return int(cursor.fetchone()[1])

        eventually(is_waiting, within=60)


def test_deadlocked_transaction_is_repeated(mariadb, scene, rival):
    """When two transactions deadlock, the server rolls back that of Firelock.

    The transaction is repeated with the usual results.
    """
    first, second = scene.add_many(2)
    rival.execute(LOCK, [second])
    before = deadlocks(mariadb.server)

    with ThreadPoolExecutor() as pool:
        applied = pool.submit(scene.storage.apply, [deletes(first), deletes(second)])
        wait_for_a_waiter(mariadb.server)
        rival.execute(LOCK, [first])
        rival.execute("ROLLBACK")
        results = applied.result(30)

    assert results == [Applied.APPLIED, Applied.APPLIED]
    assert deadlocks(mariadb.server) == before + 1
    assert scene.by_state() == {State.DELETED: 2}


def test_deadlock_in_a_callers_transaction_is_reported(mariadb, scene, rival, engine):
    """MySQL rolls back the caller's changes too, so no part of the transaction may be repeated silently."""
    parent = scene.add()
    rival.execute(LOCK, [parent])
    child = scene.new_job(state=State.AWAITING, parents=(Edge(parent, On.SUCCEEDED),))

    with ThreadPoolExecutor() as pool, engine.connect() as connection:
        connection.execute(text("UPDATE weights SET value = 7 WHERE id = 0"))
        inserted = pool.submit(scene.storage.insert, [child], within=connection)
        wait_for_a_waiter(mariadb.server)
        rival.execute("SELECT 1 FROM weights WHERE id = 0 FOR UPDATE")
        with pytest.raises(
            StorageUnavailable, match="a deadlock has rolled back the caller's whole transaction"
        ):
            inserted.result(30)
        connection.rollback()

    assert scene.storage.get([child.id]) == [None]


def test_dead_connections_of_the_pool_are_replaced(mariadb, scene):
    """However the connections ended, the next call uses another one."""
    scene.add()
    mariadb.end_connections()

    assert scene.storage.insert([scene.new_job()]).is_new == [True]
    assert scene.by_state() == {State.ENQUEUED: 2}


# ---- callers' engines and connections --------------------------------------------------------------------

SESSION = text(
    "SELECT @@autocommit, @@SESSION.transaction_isolation, @@SESSION.time_zone, @@SESSION.sql_mode,"
    " @@SESSION.innodb_lock_wait_timeout"
)


def test_settings_of_a_callers_session_are_restored(mariadb):
    """The settings that Firelock needs are changed for only one transaction."""
    engine = create_engine(mariadb.engine_url(), poolclass=QueuePool, pool_size=1, max_overflow=0)
    with engine.connect() as connection:
        before = connection.execute(SESSION).one()

    with closing(Firelock(engine)) as fire:
        fire.storage.clear()
        fire.task(name="send")(lambda: None).enqueue()
        counted = fire.storage.counts().by_state
    with engine.connect() as connection:
        after = connection.execute(SESSION).one()
    engine.dispose()

    assert counted == {State.ENQUEUED: 1}
    assert after == before


def test_engine_that_truncates_strings_is_refused(mariadb):
    """If the server truncated a name, it would become a different name."""
    engine = create_engine(mariadb.engine_url(), connect_args={"init_command": "SET sql_mode = ''"})

    with closing(Firelock(engine)) as fire, pytest.raises(StorageError, match="sql_mode=''"):
        fire.storage.counts()

    engine.dispose()


def test_engine_with_a_limited_character_set_is_refused(mariadb):
    """For example, Latin1 lacks most characters."""
    engine = create_engine(mariadb.engine_url() + "?charset=latin1")

    with closing(Firelock(engine)) as fire, pytest.raises(StorageError, match="'latin1'"):
        fire.storage.counts()

    engine.dispose()


def connect(database):
    """Return a connection of PyMySQL."""
    url = create_engine(database.engine_url()).url
    return closing(
        pymysql.connect(
            host=url.host, port=url.port, user=url.username, password=url.password, database=url.database
        )
    )


def test_driver_connection_in_autocommit_is_refused(mariadb, scene):
    """In autocommit mode, each statement would be committed separately."""
    with connect(mariadb) as connection:
        connection.autocommit(True)
        with pytest.raises(ValueError, match="in autocommit mode"):
            scene.storage.insert([scene.new_job()], within=connection)


def test_engine_of_another_driver_is_refused():
    """The message names the supported drivers."""
    engine = create_engine("mysql+pymysql://nobody@127.0.0.1/none")
    engine.dialect.driver = "mysqlconnector"

    with pytest.raises(ValueError, match="must use PyMySQL or mysqlclient, got mysqlconnector"):
        Firelock(engine)


# ---- transactions that stay open -------------------------------------------------------------------------


def lock_waits(server):
    """Return how many row-lock waits the server has counted."""
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_waits'")
        return int(cursor.fetchone()[1])


def test_open_transaction_does_not_delay_upkeep_or_pruning(mariadb, scene, engine):
    """Rows of an open transaction are skipped, because no statement reads rows that it does not change."""
    ids = [scene.add() for _ in range(210)]
    scene.storage.apply([deletes(id, expires_at=1) for id in ids[:100]])
    holder = scene.begin()
    before = lock_waits(mariadb.server)

    with engine.connect() as connection:
        scene.storage.insert([scene.new_job(tags=("red",))], within=connection)
        scene.promote(100)
        claimed = scene.claim(holder, 50)
        pruned = scene.prune(1_000)
        connection.rollback()

    assert (pruned, len(claimed)) == (100, 50)
    assert lock_waits(mariadb.server) == before
    assert scene.by_state() == {State.ENQUEUED: 60, State.PROCESSING: 50}


# ---- callers' snapshots ----------------------------------------------------------------------------------


@pytest.fixture
def caller(mariadb, scene):
    """A caller's transaction at MariaDB's default isolation level, which has read jobs and written a row."""
    with mariadb.server.connect() as driver:
        driver.select_db(mariadb.name)
        with driver.cursor() as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS own (id INT AUTO_INCREMENT PRIMARY KEY)")
            cursor.execute("DELETE FROM own")
            scene.add()
            driver.autocommit(False)
            cursor.execute("INSERT INTO own () VALUES ()")
            cursor.execute("SELECT id FROM firelock_jobs")
            yield driver
        driver.rollback()


def own_rows(caller):
    """Return the number of rows in the caller's own table."""
    with caller.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM own")
        return cursor.fetchone()[0]


def test_job_that_changed_since_the_callers_snapshot_can_be_awaited(scene, caller):
    """With `innodb_snapshot_isolation`, MariaDB would roll back all of the caller's changes.

    The caller's value of this setting is restored afterwards.
    """
    parent = scene.storage.find(JobFilter(), limit=1).jobs[0].id
    holder = scene.begin()
    scene.claim(holder)  # the caller's snapshot shows the job as enqueued
    before = session_value(caller, "innodb_snapshot_isolation")

    child = scene.new_job(state=State.AWAITING, parents=(Edge(parent, On.SUCCEEDED),))
    scene.storage.insert([child], within=caller)
    assert own_rows(caller) == 1
    caller.commit()

    assert scene.state(child.id) is State.AWAITING
    assert session_value(caller, "innodb_snapshot_isolation") == before


def test_job_that_changed_since_the_callers_snapshot_can_be_deleted(scene, caller):
    """The job is running in its current version, so it has a tail after it was deleted."""
    job_id = scene.storage.find(JobFilter(), limit=1).jobs[0].id
    scene.claim(scene.begin())

    assert scene.storage.apply([deletes(job_id)], within=caller) == [Applied.APPLIED]
    caller.commit()

    assert scene.record(job_id).is_stopping
    assert own_rows(caller) == 1


def session_value(caller, name):
    """Return the value of a variable in the caller's session."""
    with caller.cursor() as cursor:
        cursor.execute("SHOW SESSION VARIABLES LIKE %s", [name])
        found = cursor.fetchone()
        return None if found is None else found[1]  # MySQL lacks some of MariaDB's variables
