"""Transactions on MariaDB that meet: none of it is seen by callers, and none of it is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import attrs
import pymysql
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool, QueuePool

from firelock import Firelock, State
from firelock.storage import (
    Applied,
    ClaimRequest,
    Edge,
    NewJob,
    NewSession,
    On,
    StorageError,
    StorageUnavailable,
    Transition,
)
from firelock.testing.waiting import eventually

NOW = 1_700_000_000_000_000
SERVING = NewSession(
    id="s", server_id="one", server="one:1", host="here", pid=1, started_at=NOW, timeout_seconds=600.0,
    workers=1, queues="mail", version="1",
)  # fmt: skip


@pytest.fixture
def storage(mariadb):
    """An empty storage."""
    with closing(Firelock(mariadb.url())) as fire:
        fire.storage.clear()
        yield fire.storage


@pytest.fixture
def rival(mariadb, storage):
    """A connection of somebody else, who is heavy: in a deadlock the others are undone."""
    with mariadb.server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"USE {mariadb.name}")
        cursor.execute("CREATE TABLE IF NOT EXISTS weights (id INT PRIMARY KEY, value INT)")
        cursor.execute("REPLACE INTO weights SELECT seq, 0 FROM seq_0_to_99")
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


def job(id, state=State.ENQUEUED, **fields):
    """A job of that id."""
    return NewJob(
        id=id, task="send", arguments="[]", serializer="json", queue="mail", priority=0, created_at=NOW,
        state=state, **fields,
    )  # fmt: skip


def deletion(id):
    """What a person does to a job that waits in its queue."""
    return Transition(id, frozenset({State.ENQUEUED}), None, None, State.DELETED, NOW, "by hand")


def deadlocks(server):
    """How many the server has seen."""
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")
        return int(cursor.fetchone()[1])


def wait_for_a_waiter(server):
    """Somebody waits for a lock of a row.

    `information_schema.innodb_trx` is of no use here: InnoDB fills it anew only when nobody has read it for
    100 ms, and who asks more often sees the first answer for ever. The counter is read live.
    """
    with server.connect() as connection, connection.cursor() as cursor:

        def is_waiting():
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")
            return int(cursor.fetchone()[1])

        eventually(is_waiting, within=60)


def test_a_deadlock_is_not_seen(mariadb, storage, rival):
    """Two transactions cross; ours is undone by the server, done again, and says what it would have said."""
    storage.insert([job("a"), job("b")])
    rival.execute("SELECT 1 FROM firelock_jobs WHERE id = 'b' FOR UPDATE")
    before = deadlocks(mariadb.server)

    with ThreadPoolExecutor() as pool:
        applied = pool.submit(storage.apply, [deletion("a"), deletion("b")])
        wait_for_a_waiter(mariadb.server)
        rival.execute("SELECT 1 FROM firelock_jobs WHERE id = 'a' FOR UPDATE")
        rival.execute("ROLLBACK")
        results = applied.result(30)

    assert results == [Applied.APPLIED, Applied.APPLIED]
    assert deadlocks(mariadb.server) == before + 1
    assert storage.counts().by_state == {State.DELETED: 2}


def test_a_deadlock_undoes_a_callers_whole_transaction_and_says_so(mariadb, storage, rival, engine):
    """MySQL undoes more than our part, so nothing of it is tried again behind the caller's back."""
    storage.insert([job("parent")])
    rival.execute("SELECT 1 FROM firelock_jobs WHERE id = 'parent' FOR UPDATE")
    child = job("child", State.AWAITING, parents=(Edge("parent", On.SUCCEEDED),))

    with ThreadPoolExecutor() as pool, engine.connect() as connection:
        connection.execute(text("UPDATE weights SET value = 7 WHERE id = 0"))
        inserted = pool.submit(storage.insert, [child], within=connection)
        wait_for_a_waiter(mariadb.server)
        rival.execute("SELECT 1 FROM weights WHERE id = 0 FOR UPDATE")
        with pytest.raises(StorageUnavailable, match="a deadlock has undone the caller's whole transaction"):
            inserted.result(30)
        connection.rollback()

    assert storage.get(["child"]) == [None]


def test_dead_connections_of_the_pool_are_not_seen(mariadb, storage):
    """Whatever killed them, the next call takes another connection."""
    storage.insert([job("a")])
    kill_all(mariadb)

    inserted = storage.insert([job("b")]).is_new

    assert inserted == [True]
    assert storage.counts().by_state == {State.ENQUEUED: 2}


def kill_all(database):
    """Nobody is connected to the database any more."""
    with database.server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", [database.name])
        for (number,) in cursor.fetchall():
            cursor.execute("KILL %s", [number])


# ---- callers' engines and connections --------------------------------------------------------------------

SESSION = text(
    "SELECT @@autocommit, @@SESSION.transaction_isolation, @@SESSION.time_zone, @@SESSION.sql_mode,"
    " @@SESSION.innodb_lock_wait_timeout"
)


def test_a_callers_sessions_stay_as_they_are(mariadb):
    """What we need is set for one transaction alone."""
    engine = create_engine(mariadb.engine_url(), poolclass=QueuePool, pool_size=1, max_overflow=0)
    with engine.connect() as connection:
        before = connection.execute(SESSION).one()

    with closing(Firelock(engine)) as fire:
        fire.storage.clear()
        fire.storage.insert([job("a")])
        counted = fire.storage.counts().by_state
    with engine.connect() as connection:
        after = connection.execute(SESSION).one()
    engine.dispose()

    assert counted == {State.ENQUEUED: 1}
    assert after == before


def test_an_engine_that_cuts_texts_is_refused(mariadb):
    """A name that is stored shorter than it is would be another one."""
    engine = create_engine(mariadb.engine_url(), connect_args={"init_command": "SET sql_mode = ''"})

    with closing(Firelock(engine)) as fire, pytest.raises(StorageError, match="sql_mode=''"):
        fire.storage.counts()

    engine.dispose()


def test_an_engine_that_garbles_texts_is_refused(mariadb):
    """Half of all characters have no place in latin1."""
    engine = create_engine(mariadb.engine_url() + "?charset=latin1")

    with closing(Firelock(engine)) as fire, pytest.raises(StorageError, match="'latin1'"):
        fire.storage.counts()

    engine.dispose()


def connect(database):
    """A connection of PyMySQL."""
    url = create_engine(database.engine_url()).url
    return closing(
        pymysql.connect(
            host=url.host, port=url.port, user=url.username, password=url.password, database=url.database
        )
    )


def test_a_connection_of_the_driver_in_autocommit_mode_is_refused(mariadb, storage):
    """Each statement would be stored by itself."""
    with connect(mariadb) as connection:
        connection.autocommit(True)
        with pytest.raises(ValueError, match="in autocommit mode"):
            storage.insert([job("a")], within=connection)


def test_an_engine_of_another_driver_is_refused():
    """The message names those that do."""
    engine = create_engine("mysql+pymysql://nobody@127.0.0.1/none")
    engine.dialect.driver = "mysqlconnector"

    with pytest.raises(ValueError, match="uses mysqlconnector; firelock-sql uses PyMySQL or mysqlclient"):
        Firelock(engine)


# ---- what stays open for long ----------------------------------------------------------------------------


def lock_waits(server):
    """How often anybody has waited for a row, ever."""
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_waits'")
        return int(cursor.fetchone()[1])


def test_a_transaction_that_stays_open_holds_up_neither_upkeep_nor_pruning(mariadb, storage, engine):
    """What it has stored is passed over: no statement looks at rows beyond those that it changes."""
    for number in range(210):
        storage.insert([job(f"job-{number}")])
    ids = [f"job-{number}" for number in range(100)]
    storage.apply([attrs.evolve(deletion(id), expires_at=NOW + 1) for id in ids])
    storage.begin_session(SERVING)
    before = lock_waits(mariadb.server)

    with engine.connect() as connection:
        storage.insert([job("open", tags=("red",))], within=connection)
        storage.promote(100)
        claimed = storage.claim(ClaimRequest(["mail"], 50, "s", NOW + 2)).jobs
        pruned = storage.prune(1_000)
        connection.rollback()

    assert (pruned, len(claimed)) == (100, 50)
    assert lock_waits(mariadb.server) == before
    assert storage.counts().by_state == {State.ENQUEUED: 60, State.PROCESSING: 50}
