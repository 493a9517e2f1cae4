"""A server dies while another program has locked the row of one of its jobs."""

from __future__ import annotations

import sys

import pytest

from firelock import State
from tests.faults.meters import arranging
from tests.faults.scenarios.base import stage
from tests.faults.servers import Place, eventually, kill
from tests.sql.transactions import lock_jobs

LONG = 60.0  # seconds until a condition counts as never met
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
    pytest.mark.heavy("kills processes of real servers"),
]


@pytest.fixture
def on(server_database, tmp_path):
    """Yield a stage on PostgreSQL or MariaDB."""
    with stage(Place(tmp_path, server_database.url()), grace=1) as on:
        on.fire.storage.clear()
        yield on


@pytest.fixture
def lock_job(server_database):
    with lock_jobs(server_database.engine_url()) as lock:
        yield lock


def kill_all(server):
    """Kill all processes of the server, whose session then has to expire."""
    server.kill()


def kill_worker_process(server):
    """Kill the process that runs the jobs; the supervisor ends its session immediately."""
    (child,) = server.children()
    kill(child)


@pytest.mark.parametrize("death", [kill_all, kill_worker_process], ids=["server", "worker-process"])
def test_locked_job_of_a_dead_server_returns_after_the_lock(on, lock_job, death):
    """The other jobs run again while the row is locked. The locked job counts as crashed and runs later."""
    with arranging():
        (server,) = on.serve(workers=4)
        locked, *others = ids = on.enqueue(3, 0.0, task="held")
        on.await_starts(ids, within=LONG)
        eventually(lambda: all(on.record(id).started_at for id in ids), LONG, "the starts are stored")

    with lock_job(locked):
        death(server)
        if death is kill_all:
            on.serve(workers=4)
        on.await_starts(others, times=2, within=LONG)
        still_held = on.record(locked)
        closing = [one.is_closing for one in on.fire.storage.list_sessions() if not one.is_alive]
    on.await_starts([locked], times=2, within=LONG)

    assert (State.PROCESSING, 0, [True]) == (still_held.state, still_held.crashes, closing)
    assert [1, 1, 1] == [on.record(id).crashes for id in ids]
    assert [2, 2, 2] == [len(on.fire.jobs.get(id).history()) for id in ids]
    eventually(
        lambda: not any(one.is_closing for one in on.fire.storage.list_sessions()), LONG, "none is closing"
    )
