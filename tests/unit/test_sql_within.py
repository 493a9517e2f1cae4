"""Jobs as part of a transaction of the caller's."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from firelock import ConfigurationError
from firelock.storage import Edge, JobNotFound, NewJob, State, StorageUnavailable
from firelock.testing import Handles, Scene
from firelock_sql.sqlite.opening import open_sqlite


@pytest.fixture
def path(tmp_path):
    """The file of the jobs and of the caller's own rows."""
    return tmp_path / "shop.db"


@pytest.fixture
def scene(path):
    """A store with jobs at hand."""
    handles = Handles(lambda: open_sqlite(f"sqlite:///{path}?busy_timeout=0.2"))
    yield Scene(handles)
    handles.close()


@pytest.fixture
def engine(path, scene):
    """The caller's engine, with a table of the caller's own."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(text("create table orders (id integer primary key)"))
    yield engine
    engine.dispose()


def stored(scene):
    """How many jobs there are, by the counts and by the rows."""
    return sum(scene.storage.counts().by_state.values())


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_session_decides_over_its_jobs(scene, engine, is_committed):
    """A job is there with the order it belongs to, or neither is."""
    job = scene.new_job(tags=("eu",))

    with Session(engine) as session:
        session.execute(text("insert into orders values (1)"))
        answers = scene.storage.insert([job], within=session)
        session.commit() if is_committed else session.rollback()

    with engine.connect() as connection:
        orders = connection.execute(text("select count(*) from orders")).scalar_one()
    assert [True] == answers
    assert (int(is_committed), int(is_committed)) == (orders, stored(scene))


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_connection_decides_over_its_jobs(scene, engine, is_committed):
    """The same for Core, also where nothing was executed before."""
    with engine.connect() as connection:
        scene.storage.insert([scene.new_job()], within=connection)
        connection.commit() if is_committed else connection.rollback()

    assert int(is_committed) == stored(scene)


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_raw_connection_decides_over_its_jobs(scene, path, is_committed):
    """The same for the driver's own connection in its ordinary mode."""
    with closing(sqlite3.connect(path)) as connection:
        scene.storage.insert([scene.new_job()], within=connection)
        connection.commit() if is_committed else connection.rollback()

    assert int(is_committed) == stored(scene)


def test_a_scoped_session_is_a_session(scene, engine):
    """What web frameworks hand out works as well."""
    sessions = scoped_session(sessionmaker(engine))

    scene.storage.insert([scene.new_job()], within=sessions)
    sessions.commit()
    sessions.remove()

    assert 1 == stored(scene)


def test_nobody_sees_the_job_before_the_commit(scene, engine):
    """Other connections see neither row nor count."""
    with Session(engine) as session:
        scene.storage.insert([scene.new_job()], within=session)
        before = stored(scene)
        session.commit()

    assert (0, 1) == (before, stored(scene))


def test_a_refused_batch_leaves_the_transaction_usable(scene, engine):
    """An unknown parent refuses its batch; what the caller did before and after is committed."""
    orphan = scene.new_job(state=State.AWAITING, parents=(Edge(scene.storage.new_id()),))

    with Session(engine) as session:
        session.execute(text("insert into orders values (1)"))
        with pytest.raises(JobNotFound):
            scene.storage.insert([scene.new_job(), orphan], within=session)
        scene.storage.insert([scene.new_job()], within=session)
        session.commit()

    with engine.connect() as connection:
        assert 1 == connection.execute(text("select count(*) from orders")).scalar_one()
    assert 1 == stored(scene)


def test_a_continuation_of_a_job_in_the_same_transaction(scene, engine):
    """A parent that is not committed yet counts for what follows in its transaction."""
    parent = scene.new_job()
    child = scene.new_job(state=State.AWAITING, parents=(Edge(parent.id),))

    with Session(engine) as session:
        scene.storage.insert([parent], within=session)
        scene.storage.insert([child], within=session)
        session.commit()

    assert State.AWAITING == scene.state(child.id)


def test_another_database_is_refused(scene, tmp_path):
    """A transaction on another file cannot hold these jobs; both files are named."""
    other = create_engine(f"sqlite:///{tmp_path}/other.db")

    with Session(other) as session, pytest.raises(ConfigurationError) as refused:
        scene.storage.insert([scene.new_job()], within=session)

    assert "other.db" in str(refused.value)
    assert "shop.db" in str(refused.value)
    other.dispose()


def test_a_link_to_the_same_file_is_the_same_database(scene, engine, tmp_path):
    """Files are compared, not the names they were opened by."""
    (tmp_path / "link.db").symlink_to(tmp_path / "shop.db")
    linked = create_engine(f"sqlite:///{tmp_path}/link.db")

    with Session(linked) as session:
        scene.storage.insert([scene.new_job()], within=session)
        session.commit()

    linked.dispose()
    assert 1 == stored(scene)


def test_a_connection_without_a_transaction_is_refused(scene, path):
    """In autocommit mode there is nothing that could be rolled back, unless the caller has begun it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        with pytest.raises(ConfigurationError, match="begin one first"):
            scene.storage.insert([scene.new_job()], within=connection)
        connection.execute("begin")
        scene.storage.insert([scene.new_job()], within=connection)
        connection.execute("commit")

    assert 1 == stored(scene)


def test_tables_are_not_made_under_a_transaction_that_writes(tmp_path):
    """Neither would ever end: the caller is told at once what to do before, and can."""
    path = tmp_path / "new.db"
    storage = open_sqlite(f"sqlite:///{path}")
    jobs = [NewJob(storage.new_id(), "tasks.run", "[]", "json", "default", 0, State.ENQUEUED, 1)]
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


def test_a_stranger_is_refused(scene):
    """What is no transaction is named by its type."""
    with pytest.raises(ConfigurationError, match="not dict"):
        scene.storage.insert([scene.new_job()], within={})


# ---- telling servers -------------------------------------------------------------------------------------


@pytest.fixture
def server(scene):
    """Another handle, which listens and has seen everything up to now."""
    server = scene.handles.open()
    holder = scene.begin()
    server.claim(None, 10, holder.session, scene.stamp())
    server.wait(None, 0)
    return server


def test_servers_are_told_after_a_sessions_commit(scene, engine, server):
    """Not while it is open, and once it has committed."""
    with Session(engine) as session:
        scene.storage.insert([scene.new_job()], within=session)
        while_open = server.wait(None, 0)
        session.commit()

    assert (False, True) == (while_open, server.wait(None, 10))


def test_a_savepoint_tells_nobody(scene, engine, server):
    """The commit that counts is the outermost one."""
    with Session(engine) as session:
        with session.begin_nested():
            scene.storage.insert([scene.new_job()], within=session)
        after_the_savepoint = server.wait(None, 0)
        session.commit()

    assert (False, True) == (after_the_savepoint, server.wait(None, 10))


@pytest.mark.parametrize("opens", [Session, lambda engine: engine.connect()], ids=["session", "connection"])
def test_a_rollback_tells_nobody(scene, engine, server, opens):
    """Servers do not look for jobs that never were; a later commit owes nothing for them."""
    with opens(engine) as transaction:
        scene.storage.insert([scene.new_job()], within=transaction)
        transaction.rollback()
        transaction.execute(text("insert into orders values (2)"))
        transaction.commit()

    assert not server.wait(None, 0)


def test_servers_are_told_when_a_connection_is_given_back(scene, engine, server):
    """Core has no event after its commit: the connection's way back to the pool takes its place."""
    with engine.begin() as connection:
        scene.storage.insert([scene.new_job()], within=connection)

    assert server.wait(None, 10)
