"""A signal from outside is one round trip on a server and lets the waiting job continue."""

from __future__ import annotations

import attrs
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from firelock.storage import Applied, State
from firelock.testing.conformance.flow_scene import signal, suspends
from firelock.testing.conformance.scene import succeeds
from firelock_sql.rows.job_row import COMPACT_FROM
from tests.sql.transactions import by_connection


def waiting(flow):
    """Return the id of a job that waits for a signal."""
    job = flow.run()
    flow.begin_wait(job, "approval")
    flow.settle(suspends(job))
    return job.id


def shown(flow, job_id):
    """Return all visible data of the job, except its id and its times."""
    times = dict.fromkeys(("created_at", "changed_at", "enqueued_at", "claimed_at", "started_at"), 0)
    history = [attrs.evolve(one, at=0, claimed_at=0, started_at=0) for one in flow.history(job_id)]
    return attrs.evolve(flow.record(job_id), id="", **times), history, flow.recalled(job_id)


@pytest.mark.parametrize("early", [True, False])
def test_signal_takes_one_round_trip(flow, proxy, early):
    """It does not matter whether the job already waits for the signal.

    A repeated signal and a late one take one round trip too.
    """
    flow.send(waiting(flow), "approval")  # this prepares the statements
    flow.take(flow.begin("other"))
    job = flow.run().id if early else waiting(flow)
    before = proxy.traffic

    assert Applied.APPLIED is flow.send(job, "approval")
    assert 1 == (proxy.traffic - before).trips

    assert Applied.ALREADY is flow.send(job, "approval")
    assert Applied.TAKEN is flow.send(job, "approval", '"no"')
    assert 3 == (proxy.traffic - before).trips
    assert (State.PROCESSING if early else State.ENQUEUED) is flow.state(job)


def test_signal_on_the_fast_path_equals_one_on_the_slow_path(flow, server_database):
    """A signal in a caller's transaction takes the slow path.

    The stored results are equal, and the counts are correct.
    """
    short, long = waiting(flow), waiting(flow)

    assert Applied.APPLIED is flow.send(short, "approval")
    with by_connection(server_database.engine_url())(True) as transaction:
        (result,) = flow.storage.remember([signal(long, "approval")], within=transaction)

    assert Applied.APPLIED is result.answer
    assert shown(flow, short) == shown(flow, long)
    assert {State.ENQUEUED: 2} == flow.by_state()
    assert {short, long} == {one.id for one in flow.take(flow.begin("b"), 5)}


def test_first_of_several_signals_resumes_the_job(flow):
    """The job resumes with the value of the first signal. Waiting servers are notified."""
    job = waiting(flow)

    results = flow.storage.remember([signal(job, "approval"), signal(job, "later")])

    assert [Applied.APPLIED, Applied.APPLIED] == [one.answer for one in results]
    assert {State.ENQUEUED: 1} == flow.by_state()
    assert flow.storage.wait(("default",), 0.0)


def test_one_call_sends_signals_to_several_jobs(flow):
    """One of the jobs waits, one will wait, one has ended and one is unknown."""
    over = flow.run()
    flow.settle(succeeds(over))
    asleep, running = waiting(flow), flow.run().id
    jobs = [asleep, running, over.id, "unknown"]

    results = flow.storage.remember([signal(job, "approval") for job in jobs])

    wanted = [Applied.APPLIED, Applied.APPLIED, Applied.REFUSED, Applied.MISSING]
    assert wanted == [one.answer for one in results]
    assert [State.ENQUEUED, State.PROCESSING] == flow.states(asleep, running)


def test_repeated_waits_keep_a_bounded_history(flow, server_database):
    """The stored history does not grow with the number of signals, and the displayed history is the same."""
    job = waiting(flow)
    flow.send(job, "approval")
    for number in range(COMPACT_FROM):
        run = flow.take(flow.begin(f"s{number}"))[0]
        flow.begin_wait(run, f"again:{number}")
        flow.settle(suspends(run, f"again:{number}"))
        assert Applied.APPLIED is flow.send(job, f"again:{number}")

    with create_engine(server_database.engine_url(), poolclass=NullPool).connect() as connection:
        ((stored,),) = connection.execute(text("SELECT history_lines FROM firelock_jobs"))
    assert stored < COMPACT_FROM
    assert any(one.elided for one in flow.history(job))
