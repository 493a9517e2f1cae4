"""Across modules: sessions end while rows of their jobs, or their own, are locked by other transactions."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from firelock import State
from firelock.cli import main
from firelock.storage import Moved
from tests.scenes import scene_at
from tests.sql.transactions import lock_jobs

HOUR = 3_600.0
MANY = 1_100  # number of jobs, more than two transactions can take


@pytest.fixture
def scene(server_database):
    """An empty storage."""
    with scene_at(server_database.url()) as scene:
        yield scene


@pytest.fixture
def lock_job(server_database):
    with lock_jobs(server_database.engine_url()) as lock:
        yield lock


@contextmanager
def locked_session(database, session):
    """Lock the row of a session, like a claim that never ends."""
    with create_engine(database.engine_url(), poolclass=NullPool).connect() as connection:
        query = text("SELECT id FROM firelock_sessions WHERE id = :id FOR UPDATE")
        assert connection.execute(query, {"id": session}).scalar() == session
        yield
        connection.rollback()


def test_sweep_skips_a_locked_session(scene, server_database):
    """A sweep ends the other expired sessions without waiting for the locked one."""
    locked, free = scene.begin("a", HOUR), scene.begin("b", HOUR)
    stays, goes = scene.run(locked), scene.run(free)
    scene.advance(2 * HOUR)

    with locked_session(server_database, locked.session):
        first = scene.orphans()
    second = scene.orphans()

    assert [[goes.id], [stays.id]] == [
        [id for one in sweep for id in one.crashed] for sweep in (first, second)
    ]
    assert [free.session, locked.session] == [one.session for one in (*first, *second)]


def test_locked_closing_session_returns_its_jobs(scene, server_database, lock_job):
    """Only the mark that the session has no jobs left is written later, by another sweep."""
    holder = scene.begin()
    running = scene.run(holder)
    with lock_job(running.id):
        scene.lose(holder)

    with locked_session(server_database, holder.session):
        (taken,) = scene.orphans()
        (closing,) = scene.storage.list_sessions()
    later = scene.orphans()
    (ended,) = scene.storage.list_sessions()

    assert ([running.id], 0, []) == (taken.crashed, taken.left, later)
    assert [True, False] == [closing.is_closing, ended.is_closing]


def test_session_with_many_jobs_ends_in_bounded_transactions(scene, lock_job):
    """Each transaction locks a bounded number of rows.

    If another transaction has locked a row, only this job is delayed.
    """
    holder = scene.begin()
    ids = scene.add_many(MANY)
    while scene.claim(holder, 500):
        continue
    locked = [ids[3], ids[700], ids[MANY - 1]]

    with ExitStack() as locks:
        for job_id in locked:
            locks.enter_context(lock_job(job_id))
        taken = scene.lose(holder, running=[*ids[::3], "unknown"])
    (later,) = scene.orphans()

    free = [job_id for job_id in ids if job_id not in locked]
    assert sorted(free) == sorted([*taken.crashed, *taken.returned])
    assert (3, 0) == (taken.left, later.left)
    assert ([ids[3]], sorted(locked[1:])) == (later.crashed, sorted(later.returned))
    assert {State.ENQUEUED: MANY} == scene.by_state()


def test_session_with_unreadable_running_jobs_crashes_all_its_jobs(scene, server_database, lock_job):
    """A value that a person has written by hand must not stop the sweeps.

    It is unknown which jobs of such a session are running.
    """
    holder = scene.begin()
    running = scene.run(holder)
    with lock_job(running.id):
        scene.lose(holder, running=[])
    with create_engine(server_database.engine_url(), poolclass=NullPool).begin() as connection:
        connection.execute(text("UPDATE firelock_sessions SET blame = 'by hand'"))

    (taken,) = scene.orphans()

    assert [running.id] == taken.crashed
    assert Moved.SESSION_LOST == scene.record(running.id).reason


def test_doctor_names_jobs_that_stay_locked(scene, lock_job):
    """If a session has been closing for over a minute, a finding names its first locked jobs."""
    holder = scene.begin()
    ids = scene.add_many(5)
    scene.claim(holder)

    with ExitStack() as locks:
        for job_id in ids[1:]:
            locks.enter_context(lock_job(job_id))
        scene.lose(holder)
        scene.advance(50)
        early = _findings(scene)
        scene.advance(100)
        (finding,) = _findings(scene)
    scene.orphans()

    assert [] == early
    assert finding.is_error
    assert finding.what.startswith(f"Server {holder.server} ended 2 min ago, but 4 of its jobs are not back")
    assert f"{ids[1]}, {ids[2]}, {ids[3]}, …" in finding.what
    assert finding.advice.startswith("End the transaction that holds the rows")
    assert [] == _findings(scene)


def test_server_with_locked_jobs_is_listed_as_closing(scene, server_database, lock_job, capsys):
    """After its last job has been returned, a closing server is listed as lost or ended."""
    holder = scene.begin()
    running = scene.run(holder)

    with lock_job(running.id):
        scene.lose(holder)
        main(["servers", "list", "--storage", server_database.url()])
        main(["servers", "list", "--storage", server_database.url(), "--json"])
        text, _, answer = capsys.readouterr().out.partition("{")
    scene.orphans()
    main(["servers", "list", "--storage", server_database.url()])
    later = capsys.readouterr().out

    assert ([holder.server, "closing"], [holder.server, "lost"]) == (
        text.splitlines()[1].split()[:2],
        later.splitlines()[1].split()[:2],
    )
    (session,) = json.loads("{" + answer)["servers"][0]["sessions"]
    assert (False, True) == (session["is_alive"], session["is_closing"])


def _findings(scene):
    return [one for one in scene.storage.diagnose() if "transactions have locked the rows" in one.what]
