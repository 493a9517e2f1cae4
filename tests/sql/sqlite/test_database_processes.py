"""An SQLite file used by several processes: forks, locks, errors, health."""

from __future__ import annotations

import os
import sqlite3
import threading
import warnings
from contextlib import closing

import pytest

from firelock.storage import JobFilter, State, StorageError, StorageUnavailable
from firelock.testing import Handles, Scene
from firelock_sql.sqlite.database import translated
from firelock_sql.sqlite.health import file_system_of
from firelock_sql.sqlite.storage import SqliteStorage

# ---- forks -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_process_opens_its_own_connection(scene):
    """A child process that inherits an open storage can store, read and wait. So can its parent later."""
    scene.add()
    scene.storage.wait(None, 0)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            scene.add()
            scene.storage.wait(None, 0)
            code = 0 if 2 == scene.storage.counts().by_state[State.ENQUEUED] else 2
            scene.storage.close()
        finally:
            os._exit(code)

    _, status = os.waitpid(child, 0)
    scene.add()

    assert 0 == os.waitstatus_to_exitcode(status)
    assert {State.ENQUEUED: 3} == scene.storage.counts().by_state


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_waits_for_running_transactions(tmp_path):
    """A child process that is forked while other threads write and read inherits no transaction.

    It can write.
    """
    handles = Handles(lambda: SqliteStorage(f"sqlite:///{tmp_path}/busy.db?synchronous=normal"))
    scene, is_over = Scene(handles), threading.Event()

    def write_and_read():
        while not is_over.is_set():
            scene.add()
            scene.storage.counts()

    threads = [threading.Thread(target=write_and_read) for _ in range(3)]
    for thread in threads:
        thread.start()
    with warnings.catch_warnings():
        # newer Python versions warn about threads at a fork
        warnings.simplefilter("ignore", DeprecationWarning)
        children = [os.fork() or _store_one(scene) for _ in range(5)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    is_over.set()
    for thread in threads:
        thread.join()

    found = scene.storage.find(JobFilter(task="tasks.child"), limit=10).jobs
    handles.close()
    assert [0] * 5 == codes
    assert 5 == len(found)


def _store_one(scene):
    """Store a job in a forked child process, then end the process."""
    code = 1
    try:
        code = 0 if scene.storage.insert([scene.new_job(task="tasks.child")]).is_new == [True] else 2
    finally:
        os._exit(code)


# ---- other writers ---------------------------------------------------------------------------------------


def test_locked_file_is_unavailable(scene, path):
    """The call may be repeated, and succeeds after the other writer has finished. Readers are not blocked."""
    scene.add()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("begin immediate")
        with pytest.raises(StorageUnavailable, match="locked"):
            scene.add()
        while_locked = scene.storage.counts().by_state
        other.execute("rollback")
    scene.add()

    assert {State.ENQUEUED: 1} == while_locked
    assert {State.ENQUEUED: 2} == scene.storage.counts().by_state


def test_failed_transaction_stores_nothing(scene):
    """If SQLite cannot store a value, the whole call is refused. The storage can still be used."""
    good, bad = scene.new_job(), scene.new_job(priority=2**63)

    with pytest.raises(StorageError, match="cannot store a value"):
        scene.storage.insert([good, bad])

    assert [None, None] == scene.storage.get([good.id, bad.id])
    assert [True] == scene.storage.insert([good]).is_new


@pytest.mark.parametrize(
    ("statements", "expected", "words"),
    [
        (["create table t (x)", "insert into t values (zeroblob(1e7))"], StorageUnavailable, "free space"),
        (["select * from nowhere"], StorageError, "no such table"),
        (["pragma query_only = on", "create table t (x)"], StorageUnavailable, "writable"),
    ],
    ids=["full", "wrong", "read-only"],
)
def test_driver_errors_are_classified_by_retry(tmp_path, statements, expected, words):
    """A full disk or a read-only file may be temporary, but a wrong statement is not.

    The message names the file and a fix.
    """
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as connection:
        connection.execute("pragma max_page_count = 10")
        for statement in statements[:-1]:
            connection.execute(statement)
        with pytest.raises(StorageError, match=words) as raised, translated(tmp_path / "a.db"):
            connection.execute(statements[-1])

    assert expected is type(raised.value)
    assert "a.db" in str(raised.value)


# ---- tables ----------------------------------------------------------------------------------------------


# ---- health ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("synchronous", "expected", "is_found"),
    [
        ("full", "full: acknowledged data is on disk", False),
        ("normal", "may lose the last commits", True),
    ],
)
def test_description_contains_the_durability(path, synchronous, expected, is_found):
    """If the setting is below "full", the doctor reports this with a fix, but not as an error."""
    with closing(SqliteStorage(f"sqlite:///{path}?synchronous={synchronous}")) as storage:
        description = storage.describe()
        found = [one for one in storage.diagnose() if "synchronous" in one.what]

    assert expected in description["durability"]
    assert ("wal", str(path)) == (description["journal"], description["file"])
    assert [False] * is_found == [one.is_error for one in found]


def test_old_sqlite_is_found(scene):
    """A version is reported if its write-ahead log can damage a database. A newer version is not reported."""
    found = [one for one in scene.storage.diagnose() if sqlite3.sqlite_version in one.what]

    assert (sqlite3.sqlite_version_info < (3, 51, 3)) == bool(found)


def test_large_write_ahead_log_is_found(scene, path):
    """A log of more than 64 MB means that a process keeps an old snapshot open."""
    scene.add()
    log = path.with_name("jobs.db-wal")
    size = log.stat().st_size
    os.truncate(log, 65 * 1024 * 1024)  # sparse, so it uses no disk space

    found = [one.what for one in scene.storage.diagnose() if "log has grown" in one.what]

    os.truncate(log, size)
    assert ["The write-ahead log has grown to 65 MB."] == found


def test_file_system_is_that_of_the_innermost_mount(tmp_path):
    """A mount inside another mount takes precedence. Without a table of mounts, the result is empty."""
    mounts = tmp_path / "mounts"
    mounts.write_text("disk / ext4 rw 0 0\nhost:/export /srv/my\\040jobs nfs4 rw 0 0\n")

    kinds = [file_system_of(path, mounts) for path in (tmp_path / "a.db", mounts.parent / "b.db")]
    remote = file_system_of(tmp_path.__class__("/srv/my jobs/a.db"), mounts)

    assert (["ext4", "ext4"], "nfs4") == (kinds, remote)
    assert "" == file_system_of(tmp_path, tmp_path / "missing")
