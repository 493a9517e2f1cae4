"""Jobs as part of the caller's transaction."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from firelock import ConfigurationError, Firelock
from firelock.storage import ClaimRequest, NewJob, State, StorageUnavailable
from firelock_sql.sqlite.storage import SqliteStorage
from tests.core.fakes import unmeasured


@pytest.fixture
def engine(path, scene):
    """The caller's engine, with one of the caller's own tables."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(text("create table orders (id integer primary key)"))
    yield engine
    engine.dispose()


def stored(scene):
    """Return the number of stored jobs."""
    return sum(scene.storage.counts().by_state.values())


def test_scoped_session_is_accepted(scene, engine):
    """Web frameworks provide session objects of this kind."""
    sessions = scoped_session(sessionmaker(engine))

    scene.storage.insert([scene.new_job()], within=sessions)
    sessions.commit()
    sessions.remove()

    assert 1 == stored(scene)


def test_transaction_on_another_file_is_refused(scene, tmp_path):
    """Such a transaction cannot contain the jobs of this storage. The error names both files."""
    other = create_engine(f"sqlite:///{tmp_path}/other.db")

    with Session(other) as session, pytest.raises(ConfigurationError) as refused:
        scene.storage.insert([scene.new_job()], within=session)

    assert "other.db" in str(refused.value)
    assert "jobs.db" in str(refused.value)
    other.dispose()


def test_link_to_the_same_file_is_accepted(scene, engine, tmp_path):
    """The files themselves are compared instead of their paths."""
    (tmp_path / "link.db").symlink_to(tmp_path / "jobs.db")
    linked = create_engine(f"sqlite:///{tmp_path}/link.db")

    with Session(linked) as session:
        scene.storage.insert([scene.new_job()], within=session)
        session.commit()

    linked.dispose()
    assert 1 == stored(scene)


def test_connection_without_a_transaction_is_refused(scene, path):
    """In autocommit mode, nothing can be rolled back unless the caller has begun a transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        with pytest.raises(ConfigurationError, match="Begin one first"):
            scene.storage.insert([scene.new_job()], within=connection)
        connection.execute("begin")
        scene.storage.insert([scene.new_job()], within=connection)
        connection.execute("commit")

    assert 1 == stored(scene)


def test_tables_are_not_created_during_a_writing_transaction(tmp_path):
    """The migration and the caller's transaction would wait for each other forever.

    The call therefore fails immediately, and its error names the step that the caller must do first.
    """
    path = tmp_path / "new.db"
    storage = SqliteStorage(f"sqlite:///{path}")
    jobs = [NewJob(storage.new_ids(1)[0], "tasks.run", "[]", "json", "default", 0, State.ENQUEUED, 1)]
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table orders (id integer primary key)")
        connection.execute("insert into orders values (1)")
        with pytest.raises(StorageUnavailable, match="firelock migrate"):
            storage.insert(jobs, within=connection)
        connection.commit()
        storage.migrate()
        storage.insert(jobs, within=connection)
        connection.commit()

    assert {State.ENQUEUED: 1} == storage.counts().by_state
    storage.close()


def test_value_that_is_not_a_transaction_is_refused(scene):
    """The error names the type of the value."""
    with pytest.raises(ConfigurationError, match=r"(not|got) dict"):
        scene.storage.insert([scene.new_job()], within={})


# ---- notifying servers -----------------------------------------------------------------------------------


@pytest.fixture
def server(scene):
    """Another handle of the storage, which listens and has received all notifications so far."""
    server = scene.handles.open()
    holder = scene.begin()
    server.claim(ClaimRequest(None, 10, holder.session, scene.stamp()))
    server.wait(None, 0)
    return server


def test_servers_are_notified_after_the_commit_of_a_session(scene, engine, server):
    """Servers are not notified before the commit."""
    with Session(engine) as session:
        scene.storage.insert([scene.new_job()], within=session)
        while_open = server.wait(None, 0)
        session.commit()

    assert (False, True) == (while_open, server.wait(None, 10))


def test_savepoint_does_not_notify_servers(scene, engine, server):
    """Servers are notified only after the commit of the outermost transaction."""
    with Session(engine) as session:
        with session.begin_nested():
            scene.storage.insert([scene.new_job()], within=session)
        after_the_savepoint = server.wait(None, 0)
        session.commit()

    assert (False, True) == (after_the_savepoint, server.wait(None, 10))


@pytest.mark.parametrize("opens", [Session, lambda engine: engine.connect()], ids=["session", "connection"])
def test_rollback_does_not_notify_servers(scene, engine, server, opens):
    """Servers do not search for jobs that were rolled back, not even after a later commit."""
    with opens(engine) as transaction:
        scene.storage.insert([scene.new_job()], within=transaction)
        transaction.rollback()
        transaction.execute(text("insert into orders values (2)"))
        transaction.commit()

    assert not server.wait(None, 0)


def test_servers_are_notified_when_a_connection_returns_to_the_pool(scene, engine, server):
    """SQLAlchemy Core has no event after a commit.

    The event of a connection's return to the pool is used instead.
    """
    with engine.begin() as connection:
        scene.storage.insert([scene.new_job()], within=connection)

    assert server.wait(None, 10)


# ---- a transaction that is not joined --------------------------------------------------------------------

REPORTS_LOCKS = pytest.mark.skipif(
    not Path("/proc/locks").exists(), reason="only Linux lists the locks of a process"
)


@pytest.fixture
def make_app(path, engine):
    """A function that returns an app on the same file. The app waits `seconds` for other writers."""
    apps = []

    def make(seconds):
        fire = Firelock(f"sqlite:///{path}?busy_timeout={seconds}")
        apps.append(fire)
        fire.ship = fire.task(name="ship")(lambda: None)
        fire.ship.enqueue()
        return fire

    yield make
    for fire in apps:
        fire.close()


ORDER = text("insert into orders values (1)")


@contextmanager
def by_session(engine):
    """Yield a Session, which is kept in a variable."""
    with Session(engine) as session:
        session.execute(ORDER)
        yield session


@contextmanager
def by_connection(engine):
    """Yield a Connection, which is kept in a variable."""
    with engine.begin() as connection:
        connection.execute(ORDER)
        yield connection
        connection.rollback()


@contextmanager
def by_raw_connection(engine):
    """Yield a driver's connection, which is kept in a variable."""
    with closing(sqlite3.connect(engine.url.database)) as connection:
        connection.execute("insert into orders values (1)")
        yield connection


@REPORTS_LOCKS
@pytest.mark.parametrize("begun", [by_session, by_connection, by_raw_connection])
def test_wait_for_an_own_transaction_suggests_within(make_app, engine, begun, caplog):
    """If the program has other threads, the owner of the transaction is unknown.

    The suggestion is therefore logged after a second, and is also part of the final error.
    """
    fire, over = make_app(0.3), threading.Event()
    other = threading.Thread(target=over.wait, args=(30,))
    other.start()

    with begun(engine), pytest.raises(StorageUnavailable) as caught:
        fire.ship.enqueue()
    over.set()
    other.join(30)

    assert 1 == caplog.text.count("a write waits for another transaction of this process. If the waiting ")
    assert "the write will time out: pass within=session, or commit first." in caplog.text
    assert "because another transaction of this process writes to it. If this is your own" in str(
        caught.value
    )
    assert "task.using(within=session)" in str(caught.value)
    assert caught.value.is_untouched
    assert 1 == fire.jobs.counts().enqueued


ALONE = """
import sys
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from firelock import Firelock, StorageUnavailable

sessions = [Session(create_engine(f"sqlite:///{sys.argv[1]}"))]
fire = Firelock(f"sqlite:///{sys.argv[1]}?busy_timeout=600")
ship = fire.task(name="ship")(lambda: None)
ship.enqueue()
sessions[0].execute(text("create table sold (id integer)"))
sessions[0].execute(text("insert into sold values (1)"))
try:
    ship.enqueue()
except StorageUnavailable as error:
    print(error)
"""


@REPORTS_LOCKS
def test_program_with_one_thread_fails_without_waiting(path):
    """The error is raised wherever the program stores its session."""
    run = subprocess.run(
        [sys.executable, "-c", ALONE, str(path)], env=unmeasured(), capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip

    assert "this thread waits for its own transaction" in run.stdout


class Lazy:
    """An object that a framework evaluates when it is accessed, such as the user of a request."""

    @property
    def __class__(self):
        raise LookupError("no request")


@contextmanager
def closed_connection(engine):
    """Yield a driver's connection that was closed."""
    connection = sqlite3.connect(engine.url.database)
    connection.close()
    yield connection


@contextmanager
def reading_connection(engine):
    """Yield a driver's connection in a transaction that has only read."""
    with closing(sqlite3.connect(engine.url.database, isolation_level=None)) as connection:
        connection.execute("begin")
        connection.execute("select count(*) from orders").fetchall()
        yield connection


@contextmanager
def connection_of_other_rows(engine):
    """Yield a driver's connection that has only read, with the caller's own type of rows."""
    with reading_connection(engine) as connection:
        connection.row_factory = lambda _, row: row[0]
        yield connection


@contextmanager
def lazy_object(_engine):
    """Yield an object that must not be evaluated."""
    yield Lazy()


@contextmanager
def kept_by_another_thread(engine, until):
    """Let another thread hold a writing transaction until the event is set; then the thread commits it."""
    begun = threading.Event()

    def keep():
        with Session(engine) as session:
            session.execute(ORDER)
            begun.set()
            until.wait(30)
            session.commit()

    keeper = threading.Thread(target=keep)
    keeper.start()
    begun.wait(30)
    yield
    keeper.join(30)


@REPORTS_LOCKS
@pytest.mark.parametrize(
    "unrelated", [closed_connection, reading_connection, connection_of_other_rows, lazy_object]
)
def test_wait_for_the_transaction_of_another_thread_is_logged(make_app, engine, caplog, unrelated):
    """The transaction of another thread may end at any time.

    The log mentions it after a second, and the job is stored when it has ended. Other objects of the caller,
    such as its own transaction that has only read, do not change this.
    """
    fire, logged = make_app(600), threading.Event()

    class LogHandler(logging.Handler):
        def emit(self, record):
            logged.set()

    handler = LogHandler()
    logging.getLogger("firelock_sql.sqlite.database").addHandler(handler)

    with kept_by_another_thread(engine, logged), unrelated(engine) as held:
        fire.ship.enqueue()

    assert held is not None
    logging.getLogger("firelock_sql.sqlite.database").removeHandler(handler)
    assert 1 == caplog.text.count("a write waits for another transaction of this process")
    assert 2 == fire.jobs.counts().enqueued


@pytest.mark.parametrize("seconds", [0, 0.2])
def test_timeout_of_a_long_wait_suggests_within(make_app, engine, seconds):
    """The error is the same for the transaction of any process or thread.

    The call does not start to wait again.
    """
    fire, done = make_app(seconds), threading.Event()

    with kept_by_another_thread(engine, done):
        with pytest.raises(StorageUnavailable) as caught:
            fire.ship.enqueue()
        done.set()

    assert "database is locked for " in str(caught.value)
    assert "enqueue jobs in it using task.using(within=session), or within=" in str(caught.value)
    assert "call other verbs after the commit." in str(caught.value)
    assert caught.value.is_untouched


def test_django_alias_without_the_plugin_is_refused(scene):
    """In an app that has the plugin, the storage never gets an alias."""
    with pytest.raises(ConfigurationError, match=r"plugins=\[DjangoPlugin\(\)\]"):
        scene.storage.insert([scene.new_job()], within="default")
